//! Asks for one row, of 8 MiB. Stopped by the bytes that a statement may give.

use hostile::capabilities::store::{self, Value};

hostile::provoked!(|entry| hostile::tell_refusal(entry, store::query("repeat", &[Value::Integer(8 << 20)])));
