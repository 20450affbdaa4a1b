//! Makes a row that passes the host's screen and that PostgreSQL refuses: the number is in range, its exact value is not
//! for `numeric`. Costs its own entry.

use hostile::{Event, accept_but};

hostile::provoked!(|entry| accept_but(entry, |event| Event {
    properties: Some("{\"a\":1e-20000}".to_owned()),
    ..event
}));
