//! Asks for ten thousand rows. Stopped by the statement's `rows`.

use hostile::capabilities::store::{self, Value};

hostile::provoked!(|entry| hostile::tell_refusal(entry, store::query("count_to", &[Value::Integer(10_000)])));
