//! Prints ten thousand lines to standard output, and as many to standard error. GUEST_LOG_SIZE cuts
//! them, and so does the limit of lines that are logged in a second.
#![expect(clippy::print_stdout, reason = "it is what the guest is for")]

hostile::provoked!(|entry| {
    for _ in 0..hostile::amount(entry, 10_000) {
        println!("flood");
        eprintln!("flood");
    }
    hostile::judge(entry)
});
