//! Hands statements as much as they take. The limit of a batch's parameters stops it.

use hostile::capabilities::store::{self, Value};

hostile::provoked!(|entry| {
    let text = "x".repeat(hostile::amount(entry, 1 << 20));
    let refusal = loop {
        if let Err(error) = store::execute("note", &[Value::Text(text.clone())]) {
            break error;
        }
    };
    hostile::tell_refusal(entry, Err::<(), _>(refusal))
});
