//! Gives a statement a parameter of another type than declared. The host refuses it.

use hostile::capabilities::store::{self, Value};

hostile::provoked!(|entry| hostile::tell_refusal(entry, store::execute("note", &[Value::Integer(1)])));
