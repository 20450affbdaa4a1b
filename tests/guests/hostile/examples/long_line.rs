//! Prints a mebibyte in one line. GUEST_LOG_SIZE cuts the line.
#![expect(clippy::print_stdout, reason = "it is what the guest is for")]

hostile::provoked!(|entry| {
    let line = "x".repeat(hostile::amount(entry, 1 << 20));
    println!("{line}");
    eprintln!("{line}");
    hostile::judge(entry)
});
