//! Prints ten thousand lines to standard output, and as many to standard error. Cut by GUEST_LOG_SIZE, and
//! by the lines that are logged in a second.
#![expect(clippy::print_stdout, reason = "it is what the guest is for")]

hostile::provoked!(|entry| {
    for _ in 0..hostile::amount(entry, 10_000) {
        println!("flood");
        eprintln!("flood");
    }
    hostile::judge(entry)
});
