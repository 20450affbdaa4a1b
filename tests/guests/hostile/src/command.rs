//! A component of another world: a command, which has a `main` and judges nothing.

fn main() {}
