//! Looks for files, and tries to write some. There are none for it, and no folder to make one in.

use std::fs::{self, File, OpenOptions};

hostile::provoked!(|entry| {
    let found = [
        fs::read_dir("/").is_ok(),
        fs::read_dir(".").is_ok(),
        fs::read_link("/proc/self/exe").is_ok(),
        File::open("/etc/passwd").is_ok(),
        File::open("sluicegate.toml").is_ok(),
        File::create("/tmp/hostile").is_ok(),
        OpenOptions::new().append(true).open("/dev/stdout").is_ok(),
        fs::create_dir("hostile").is_ok(),
        fs::remove_file("sluicegate.toml").is_ok(),
    ];
    hostile::tell(entry, format!("{{\"found\":{found:?}}}"))
});
