//! Runs SQL of its own in the place of a statement's name. It is refused, as not in `[grants]`.

use hostile::capabilities::store;

hostile::provoked!(|entry| hostile::tell_refusal(entry, store::execute("DROP TABLE events", &[])));
