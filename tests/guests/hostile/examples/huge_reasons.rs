//! Discards each entry with a reason of 60 MiB, thrice as much once replaced. The host cuts it.

use hostile::{Verdict, amount};

hostile::provoked!(|entry| Verdict::Discard("\0".repeat(amount(entry, 60 << 20))));
