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

use serde_json::{Map, Value};
use sluicegate_kit::capabilities::{Host, Metrics, Store, StoreError, Stream, Value as Sql};
use sluicegate_kit::{Entry, Event, Judged, Rules, Verdict, export, read_event, violation};

/// Asks the service for what it is granted, or, in tests, a fake.
#[derive(Default)]
pub struct Enrich<H = Host> {
    host: H,
}

impl<H: Store + Stream + Metrics> Rules for Enrich<H> {
    fn judge(&self, entry: &Entry) -> Judged {
        if self.host.delivery_count(entry.id).is_some_and(|count| count > 1) {
            self.host.add("redelivered", &[], 1);
        }
        match self.enrich(read_event(entry)?) {
            Ok(event) => Ok(Verdict::Accept(event)),
            // The entry can be replayed when the statement works again.
            Err(error) => Err(violation("", "not_enriched", error.to_string()).into()),
        }
    }
}

impl<H: Store + Stream + Metrics> Enrich<H> {
    fn enrich(&self, event: Event) -> Result<Event, StoreError> {
        let user = Sql::Text(event.user_id.clone());
        let found = self.host.query("user_plan", std::slice::from_ref(&user))?;
        let plan = match found.into_iter().flatten().next() {
            Some(Sql::Text(plan)) => plan,
            _ => "none".to_owned(),
        };
        self.host.execute("touch_user", &[user, Sql::Timestamp(event.time)])?;

        // The default rules have accepted the text, so it is a JSON object.
        let mut properties: Map<String, Value> =
            event.properties.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        if event.event_type == "purchase" {
            self.publish(&event, &plan, properties.get("amount").and_then(Value::as_f64));
        }
        properties.insert("plan".to_owned(), Value::String(plan));
        Ok(Event { properties: Some(Value::Object(properties).to_string()), ..event })
    }

    fn publish(&self, event: &Event, plan: &str, amount: Option<f64>) {
        self.host.add("purchases", &[("plan", plan)], 1);
        if let Some(amount) = amount {
            self.host.observe("purchase_amount", &[], amount);
        }
        let fields = [
            ("event_id", event.event_id.as_str()),
            ("user_id", &event.user_id),
            ("plan", plan),
            ("amount", &amount.unwrap_or_default().to_string()),
        ];
        if let Err(error) = self.host.publish("purchases", &fields) {
            eprintln!("purchase {} not published: {error}", event.event_id);
        }
    }
}

export!(Enrich);

#[cfg(test)]
mod tests {
    use sluicegate_kit::capabilities::Fake;

    use super::*;

    fn purchase() -> Entry {
        Entry::of(&[
            ("event_id", "123e4567-e89b-12d3-a456-426614174000"),
            ("event_type", "purchase"),
            ("user_id", "ada"),
            ("timestamp", "2026-01-18T22:17:34Z"),
            ("properties", r#"{"amount": 12.5}"#),
        ])
    }

    #[test]
    fn a_purchase_is_enriched_counted_and_published() {
        let host = Fake::new()
            .with_rows("user_plan", vec![vec![Sql::Text("gold".to_owned())]])
            .with_changes("touch_user", 1)
            .with_stream("purchases");
        let rules = Enrich { host };
        let Ok(Verdict::Accept(event)) = rules.judge(&purchase()) else { panic!("rejected") };
        assert_eq!(event.properties.as_deref(), Some(r#"{"amount":12.5,"plan":"gold"}"#));
        assert_eq!((rules.host.count("purchases"), rules.host.count("redelivered")), (1, 0));
        assert_eq!(rules.host.values("purchase_amount"), [12.5]);
        let published = rules.host.published();
        assert_eq!((published.len(), published[0].0.as_str()), (1, "purchases"));
        assert!(published[0].1.contains(&("plan".to_owned(), "gold".to_owned())));
        let statements: Vec<_> = rules.host.run().into_iter().map(|(name, _)| name).collect();
        assert_eq!(statements, ["user_plan", "touch_user"]);
    }

    #[test]
    fn without_its_statements_an_entry_is_rejected() {
        let rules = Enrich { host: Fake::new() };
        let wrong = rules.judge(&purchase()).unwrap_err();
        let codes: Vec<_> = wrong.iter().map(|one| one.code.as_str()).collect();
        assert_eq!(codes, ["not_enriched"]);
    }
}
