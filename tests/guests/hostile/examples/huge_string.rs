//! Returns a user ID of 17 MiB. GUEST_STRING stops it.

use hostile::Event;

hostile::provoked!(|entry| {
    let user_id = "x".repeat(hostile::amount(entry, 17 << 20));
    hostile::accept_but(entry, |event| Event { user_id, ..event })
});
