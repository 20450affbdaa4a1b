//! Makes up what the visitors of an imaginary shop do.

use chrono::{DateTime, SubsecRound as _, Utc};
use fastrand::Rng;
use serde_json::{Value, json};
use uuid::Builder;

use super::{Refusal, Strict};
use sluicegate_verdicts::Event;

const PAGES: [&str; 8] = [
    "/",
    "/tea/sencha",
    "/tea/thé-à-la-menthe",
    "/pots/石瓢",
    "/search?q=green+tea&page=2",
    "/basket",
    "/checkout",
    "/blog/how-to-brew-\"gyokuro\"",
];
const REFERRERS: [&str; 4] =
    ["", "https://search.example/?q=tea", "https://news.example/item?id=42", "android-app://mail.example"];
const ELEMENTS: [&str; 5] = ["buy", "add-to-basket", "menu", "newsletter 💌", "cookie-banner.accept"];
const CURRENCIES: [&str; 3] = ["EUR", "GBP", "JPY"];
const USERS: u32 = 4_000;

/// Makes an event that the default rules accept, and says what the strict rules do with it.
pub(super) fn event(random: &mut Rng, now: DateTime<Utc>) -> (Event, Strict) {
    let (event_type, properties, strict) = match random.u32(..100) {
        0..56 => ("page_view", Some(page_view(random)), Strict::Accept),
        56..80 => ("click", Some(click(random)), Strict::Accept),
        80..92 => {
            let properties = random.bool().then(|| json!({ "visible": random.bool() }));
            ("heartbeat", properties, Strict::Discard)
        }
        _ => purchase(random),
    };
    let event = Event {
        event_id: Builder::from_random_bytes(random.u128(..).to_be_bytes()).into_uuid(),
        time: now.trunc_subsecs(6), // PostgreSQL knows no finer time, and the rules cut off the rest
        event_type: event_type.to_owned(),
        user_id: format!("u-{:05}", random.u32(..USERS)),
        properties: properties.map(|properties| properties.to_string()),
    };
    (event, strict)
}

fn page_view(random: &mut Rng) -> Value {
    json!({
        "path": random.choice(PAGES),
        "referrer": random.choice(REFERRERS).filter(|referrer| !referrer.is_empty()),
        "viewport": { "width": random.u32(320..2_560), "height": random.u32(480..1_440) },
        "load_ms": f64::from(random.u32(200..90_000)) / 10.0,
    })
}

fn click(random: &mut Rng) -> Value {
    json!({
        "path": random.choice(PAGES),
        "element": random.choice(ELEMENTS),
        "at": [random.u32(..2_560), random.u32(..1_440)],
    })
}

/// Makes a purchase. Three in ten have no amount.
fn purchase(random: &mut Rng) -> (&'static str, Option<Value>, Strict) {
    let mut properties = json!({
        "order": format!("{:08x}", random.u32(..)),
        "currency": random.choice(CURRENCIES),
        "items": random.u32(1..9),
    });
    let strict = if random.u32(..10) < 3 {
        Strict::Reject(Refusal::rejected(&[("properties.amount", "missing")]))
    } else {
        let amount = f64::from(random.u32(199..50_000)) / 100.0;
        if let Value::Object(properties) = &mut properties {
            properties.insert("amount".to_owned(), amount.into());
        }
        Strict::Accept
    };
    ("purchase", Some(properties), strict)
}
