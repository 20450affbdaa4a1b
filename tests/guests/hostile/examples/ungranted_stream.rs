//! Publishes to a stream that it was not granted. It is refused, as not in `[grants]`.

use hostile::capabilities::stream;

hostile::provoked!(|entry| {
    let fields = [("data".to_owned(), "spam".to_owned())];
    hostile::tell_refusal(entry, stream::publish("analytics_events", &fields))
});
