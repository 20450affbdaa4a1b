//! Discards each entry with a reason of 60 MiB, of characters that take three times as much once they are replaced. Cut.

use hostile::{Verdict, amount};

hostile::provoked!(|entry| Verdict::Discard("\0".repeat(amount(entry, 60 << 20))));
