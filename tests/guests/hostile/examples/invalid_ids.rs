//! Returns an event ID that is none. What the host cannot read as a UUID is a dead letter.

use hostile::Event;

hostile::provoked!(|entry| hostile::accept_but(entry, |event| Event {
    event_id: "'; DROP TABLE events; --".to_owned(),
    ..event
}));
