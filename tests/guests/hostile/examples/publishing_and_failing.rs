//! Publishes, runs a statement, counts, and panics. What a call without verdicts did is undone.
#![expect(clippy::panic, reason = "it is what the guest is for")]

use hostile::capabilities::store::{self, Value};
use hostile::capabilities::{granted_stream, metrics, stream};

hostile::provoked!(|_| {
    let fields = [("data".to_owned(), "spam".to_owned())];
    let published = stream::publish(&granted_stream(), &fields);
    let noted = store::execute("note", &[Value::Text("spam".to_owned())]);
    metrics::add("spam", &[], 1);
    panic!("published: {published:?}, noted: {noted:?}");
});
