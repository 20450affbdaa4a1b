//! Gives a statement a parameter of another type than the operator has declared. Refused.

use hostile::capabilities::store::{self, Value};

hostile::provoked!(|entry| hostile::tell_refusal(entry, store::execute("note", &[Value::Integer(1)])));
