//! Runs a statement and rejects its entry. What the statement wrote is refused only when all of it is to be committed, if the
//! operator's table puts its check off for so long: the letter is written without it.

use hostile::capabilities::store::{self, Value};
use hostile::{Verdict, violation};

hostile::provoked!(|_| {
    _ = store::execute("note", &[Value::Text("noted".to_owned())]);
    Verdict::Reject(vec![violation("unwanted", "noted, and not wanted".to_owned())])
});
