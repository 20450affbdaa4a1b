//! Returns the same key for all its entries. The first is stored, and the others are duplicates: of
//! its own, since each tenant has its own table.

use hostile::Event;

hostile::provoked!(|entry| hostile::accept_but(entry, |event| Event {
    event_id: "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11".to_owned(),
    time: 1_768_774_674_827_000,
    ..event
}));
