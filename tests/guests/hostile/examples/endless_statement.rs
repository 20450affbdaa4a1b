//! Asks PostgreSQL to sleep for an hour. Stopped by the statement's `timeout`.

use hostile::capabilities::store::{self, Value};

hostile::provoked!(|entry| hostile::tell_refusal(entry, store::query("sleep", &[Value::Number(3_600.0)])));
