//! Claims that the user's name has 17 MiB. Stopped by GUEST_STRING.

use hostile::Event;

hostile::provoked!(|entry| {
    let user_id = "x".repeat(hostile::amount(entry, 17 << 20));
    hostile::accept_but(entry, |event| Event { user_id, ..event })
});
