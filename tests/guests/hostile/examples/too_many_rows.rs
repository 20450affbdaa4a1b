//! Asks for ten thousand rows. The statement's `rows` stops it.

use hostile::capabilities::store::{self, Value};

hostile::provoked!(|entry| hostile::tell_refusal(entry, store::query("count_to", &[Value::Integer(10_000)])));
