//! Makes a thousand rows of an entry and runs a statement. All of it is in one transaction.

use hostile::capabilities::store::{self, Value};
use hostile::{Event, Verdict};

hostile::provoked!(|entry| {
    _ = store::execute("note", &[Value::Text("noted".to_owned())]);
    match hostile::judge(entry) {
        Verdict::Accept(event) => {
            // A row becomes another one by its time.
            let row = |i| Event { time: event.time + i, ..event.clone() };
            Verdict::Expand((0..1_000).map(row).collect())
        }
        other => other,
    }
});
