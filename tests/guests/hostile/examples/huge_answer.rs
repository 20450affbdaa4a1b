//! Asks for one row, of 8 MiB. The bytes that a statement may give stop it.

use hostile::capabilities::store::{self, Value};

hostile::provoked!(|entry| hostile::tell_refusal(entry, store::query("repeat", &[Value::Integer(8 << 20)])));
