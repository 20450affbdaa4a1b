//! Makes a row that only PostgreSQL refuses, by the operator's constraint. It costs its own entry.

use hostile::{Event, accept_but};

hostile::provoked!(|entry| accept_but(entry, |event| Event { event_type: "forbidden".to_owned(), ..event }));
