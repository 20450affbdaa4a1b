//! Publishes until it may not any more. The entries and the bytes that a batch may publish stop it.

use hostile::capabilities::{granted_stream, stream};

hostile::provoked!(|entry| {
    let fields = [("data".to_owned(), "x".repeat(hostile::amount(entry, 300)))];
    let stream = granted_stream();
    let refusal = loop {
        if let Err(error) = stream::publish(&stream, &fields) {
            break error;
        }
    };
    hostile::tell_refusal(entry, Err::<(), _>(refusal))
});
