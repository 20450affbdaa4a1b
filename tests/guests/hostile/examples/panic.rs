//! Panics. No limit is broken: the trap costs its entry.
#![expect(clippy::panic, reason = "it is what the guest is for")]

hostile::provoked!(|_| panic!("provoked"));
