//! Runs a statement that PostgreSQL refuses, does not mind, and goes on. The transaction is as it
//! was before that statement: what else the guest does, and its event, are stored.

use hostile::capabilities::store::{self, Value};

hostile::provoked!(|entry| {
    for text in ["before", "forbidden", "after"] {
        _ = store::execute("note", &[Value::Text(text.to_owned())]);
    }
    hostile::judge(entry)
});
