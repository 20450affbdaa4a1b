//! Hands statements as much as they take. Stopped by the bytes that the parameters of a batch may have.

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
