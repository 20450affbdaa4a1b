//! Makes a row that passes the host's validation and that PostgreSQL refuses, by a constraint of the operator's. Costs its
//! own entry.

use hostile::{Event, accept_but};

hostile::provoked!(|entry| accept_but(entry, |event| Event { event_type: "forbidden".to_owned(), ..event }));
