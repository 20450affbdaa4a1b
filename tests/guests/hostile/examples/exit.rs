//! Ends its program, as if it were one. No limit is broken: the trap costs its entry.

hostile::provoked!(|_| std::process::exit(0));
