//! Applies the default rules and then enriches the event, as a guest of the world `pipeline`.
//!
//! - It looks up the user's plan and adds it to the event's properties.
//! - It counts the user's events, and notes when the last one happened.
//! - It publishes purchases to a stream of their own, once they are committed.
//! - It counts purchases by plan, and their amounts.
//!
//! It is the example to copy for a guest with capabilities. The operator makes the tables and
//! grants what the guest uses:
//!
//! ```toml
//! guest = "guest_enrich.wasm"
//!
//! [grants]
//! stream = true
//! publish = { purchases = 1_000_000 }   # the length to which the stream is trimmed
//! statements = ["user_plan", "touch_user"]
//! metrics = true
//!
//! [statements.user_plan]
//! sql = "SELECT plan FROM users WHERE user_id = $1"
//! parameters = ["text"]
//!
//! [statements.touch_user]
//! sql = """INSERT INTO user_activity (user_id, events, last_seen) VALUES ($1, 1, $2)
//!          ON CONFLICT (user_id) DO UPDATE SET events = user_activity.events + 1,
//!          last_seen = greatest(user_activity.last_seen, EXCLUDED.last_seen)"""
//! parameters = ["text", "timestamp"]
//! ```

use guest_rules::{Entry, Event, Guest, Verdict, Violation};
use serde_json::{Map, Value};

use bindings::sluicegate::guest::store::{self, Value as Sql};
use bindings::sluicegate::guest::{metrics, stream};

/// Holds what the world `pipeline` has beyond `validator`, whose bindings are in [`guest_rules`].
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package sluicegate:enrich;
            world enrich {
                import sluicegate:guest/%stream@0.1.0;
                import sluicegate:guest/store@0.1.0;
                import sluicegate:guest/metrics@0.1.0;
            }
        ",
        generate_all,
        with: { "sluicegate:guest/types@0.1.0": guest_rules::bindings::sluicegate::guest::types },
    });
}

/// Implements what the component exports.
pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        batch.iter().map(judge).collect()
    }
}

guest_rules::export!(Component);

fn judge(entry: &Entry) -> Verdict {
    if stream::delivery_count(entry.id).is_some_and(|count| count > 1) {
        metrics::add("redelivered", &[], 1);
    }
    match guest_rules::judge(entry) {
        Verdict::Accept(event) => match enrich(event) {
            Ok(event) => Verdict::Accept(event),
            // The entry can be replayed when the statement works again.
            Err(error) => Verdict::Reject(vec![Violation {
                path: String::new(),
                code: "not_enriched".to_owned(),
                message: format!("{error:?}"),
            }]),
        },
        other => other,
    }
}

fn enrich(event: Event) -> Result<Event, store::Error> {
    let user = Sql::Text(event.user_id.clone());
    let found = store::query("user_plan", std::slice::from_ref(&user))?;
    let plan = match found.into_iter().flatten().next() {
        Some(Sql::Text(plan)) => plan,
        _ => "none".to_owned(),
    };
    store::execute("touch_user", &[user, Sql::Timestamp(event.time)])?;

    // The default rules have accepted the text, so it is a JSON object.
    let mut properties: Map<String, Value> =
        event.properties.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    if event.event_type == "purchase" {
        publish(&event, &plan, properties.get("amount").and_then(Value::as_f64));
    }
    properties.insert("plan".to_owned(), Value::String(plan));
    Ok(Event { properties: Some(Value::Object(properties).to_string()), ..event })
}

fn publish(event: &Event, plan: &str, amount: Option<f64>) {
    let field = |name: &str, value: String| (name.to_owned(), value);
    let fields = [
        field("event_id", event.event_id.clone()),
        field("user_id", event.user_id.clone()),
        field("plan", plan.to_owned()),
        field("amount", amount.unwrap_or_default().to_string()),
    ];
    metrics::add("purchases", &[field("plan", plan.to_owned())], 1);
    if let Some(amount) = amount {
        metrics::observe("purchase_amount", &[], amount);
    }
    if let Err(error) = stream::publish("purchases", &fields) {
        eprintln!("purchase {} not published: {error:?}", event.event_id);
    }
}
