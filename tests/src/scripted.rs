//! Uses rules that return the verdict which an entry names: see `tests/guests/scripted`.

use crate::events::{Event, Fields, fields};
use crate::guests;
use crate::scene::Scene;
use crate::service::Launch;

/// Makes an entry that gets this verdict, with an event ID of its own.
pub fn verdict(name: &str, more: &[(&str, &str)]) -> Fields {
    let event_id = Event::new().event_id.to_string();
    let mut entry = vec![("verdict", name)];
    entry.extend(more);
    if !more.iter().any(|(name, _)| *name == "event_id") {
        entry.push(("event_id", &event_id));
    }
    fields(entry)
}

/// Sets the scripted guest, with time enough for whatever ends by itself, on a busy machine too.
pub fn scripted(scene: &Scene) -> Launch {
    let launch = scene.service().set("GUEST", guests::scripted().display()).set("GUEST_TIME_LIMIT", "20s");
    launch.set("MAX_EVENT_AGE", "800000d").set("MAX_EVENT_AHEAD", "3000000d")
}
