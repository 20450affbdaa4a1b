//! Ends its program, as if it were one. No limit is broken: that is a trap, and costs its entry.

hostile::provoked!(|_| std::process::exit(0));
