//! Runs a statement and rejects its entry. If the operator's table defers its check, what the
//! statement wrote is refused only at the commit. The letter is then written without it.

use hostile::capabilities::store::{self, Value};
use hostile::{Verdict, violation};

hostile::provoked!(|_| {
    _ = store::execute("note", &[Value::Text("noted".to_owned())]);
    Verdict::Reject(vec![violation("unwanted", "noted, and not wanted".to_owned())])
});
