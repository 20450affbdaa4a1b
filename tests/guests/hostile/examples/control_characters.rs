//! Prints what a terminal would obey, and a forged line of the log. The host escapes both.
#![expect(clippy::print_stdout, reason = "it is what the guest is for")]

const TEXT: &str = "first\nWARN \x1b[2J forged tenant=other\u{202e}\r";

hostile::provoked!(|entry| {
    println!("{TEXT}");
    eprintln!("{TEXT}");
    hostile::judge(entry)
});
