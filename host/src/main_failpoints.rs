//! The same program under another name, built with the feature `failpoints`: see `failpoint.rs`.
//! A target of its own, so that it does not take the place of the one that ships.

#[path = "main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
