//! Has a `main`, exports no handler, and so is a command and no guest. It is refused at load.

fn main() {}
