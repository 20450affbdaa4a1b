//! Reads entries of another shape than the default one, by settings: what the kit is for beside the default rules.
//!
//! An order becomes a row for each of its items. Its e-mail address is stored as a hash, by a key of the settings.

use serde::Deserialize;
use sluicegate_kit::times::Unit;
use sluicegate_kit::{Document, Entry, Event, Judged, Rules, Uuid, Verdict, Violations, export, hashes, ids};

/// Was chosen once: IDs of messages become UUIDs by it.
const MESSAGES: Uuid = Uuid::from_u128(0x0c7b_6b3e_5a0e_4b0f_9d6c_2f1f_6a3c_8e11);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    key: String,
    #[serde(default)]
    robots: Vec<String>,
    max_items: Option<usize>,
}

struct Tracks {
    settings: Settings,
}

impl Tracks {
    fn new(settings: Settings) -> Result<Self, String> {
        match settings.key.len() {
            16.. => Ok(Self { settings }),
            _ => Err("`key`: expected 16 characters or more".to_owned()),
        }
    }
}

impl Rules for Tracks {
    fn judge(&self, entry: &Entry) -> Judged {
        let track = Document::read(entry)?;
        let mut wrong = Violations::new();
        let agent = wrong.take(track.at("context.agent").optional(|agent| agent.text())).flatten();
        if agent.is_some_and(|agent| self.settings.robots.iter().any(|robot| robot == agent)) {
            return Ok(Verdict::discard("robot"));
        }
        let message = wrong.take(track.at("messageId").nonempty_text());
        let email = wrong.take(track.at("email").nonempty_text());
        let time = wrong.take(track.at("sentAt").epoch(Unit::Milliseconds));
        let list = track.at("items");
        let mut items = Vec::new();
        for item in wrong.take(list.items()).into_iter().flatten() {
            let price = wrong.take(item.at("price").number_where("a number above 0", |price| price > 0.0));
            let properties = wrong.take(item.properties());
            items.extend(price.and(properties));
        }
        if items.len() > self.settings.max_items.unwrap_or(10) {
            wrong.push(list.refuse("too_many_items", "fewer"));
        }
        let (Some(message), Some(email), Some(time), true) = (message, email, time, wrong.is_empty()) else {
            return Err(wrong);
        };
        let (order, user_id) =
            (ids::derive(MESSAGES, message), hashes::hmac_sha256(&self.settings.key, email));
        let row = |(index, properties): (usize, String)| Event {
            event_id: ids::derive(order, &index.to_string()).to_string(),
            time,
            event_type: "item".to_owned(),
            user_id: user_id.clone(),
            properties: Some(properties),
        };
        Ok(Verdict::Expand(items.into_iter().enumerate().map(row).collect()))
    }
}

export!(Tracks, Tracks::new);
