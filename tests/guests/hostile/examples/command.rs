//! No guest at all: a command, which has a `main` and judges nothing. It exports no handler and is refused at load.

fn main() {}
