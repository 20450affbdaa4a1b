//! Claims an event ID that is none. The host reads it as a UUID, or the entry is a dead letter.

use hostile::Event;

hostile::provoked!(|entry| hostile::accept_but(entry, |event| Event {
    event_id: "'; DROP TABLE events; --".to_owned(),
    ..event
}));
