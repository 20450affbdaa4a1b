//! Asks PostgreSQL to sleep for an hour. The statement's `timeout` stops it.

use hostile::capabilities::store::{self, Value};

hostile::provoked!(|entry| hostile::tell_refusal(entry, store::query("sleep", &[Value::Number(3_600.0)])));
