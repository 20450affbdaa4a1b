//! Prints what a terminal would obey, and what looks like another's line of the log. Escaped by the host.
#![expect(clippy::print_stdout, reason = "it is what the guest is for")]

const TEXT: &str = "first\nWARN \x1b[2J forged tenant=other\u{202e}\r";

hostile::provoked!(|entry| {
    println!("{TEXT}");
    eprintln!("{TEXT}");
    hostile::judge(entry)
});
