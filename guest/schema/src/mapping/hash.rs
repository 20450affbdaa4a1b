//! Replaces values by HMAC-SHA-256, with a key that the component does not hold.

use std::sync::OnceLock;

use sluicegate_kit::bindings::config::wasi::config::store as settings;
use sluicegate_kit::{Violation, hashes, violation};

use super::{Action, Mapping};

/// Names the setting of the guest that holds the key.
const SETTING: &str = "hash_key";
/// Bounds a key from below, in bytes.
const MIN_KEY: usize = 16;
/// Says that there is no key, or a weak one.
const NO_HASH_KEY: &str = "no_hash_key";

/// Holds the key of this instance, once it was asked for. It is no part of what the component begins with.
static KEY: OnceLock<Option<String>> = OnceLock::new();

impl Mapping {
    /// Returns why the settings do not do for this mapping, if it hashes and there is no key. The rules are refused then: every
    /// event that is to be hashed would be rejected.
    #[cfg_attr(not(target_family = "wasm"), allow(dead_code, reason = "only a component calls it"))]
    pub(crate) fn lacks_key(&self) -> Option<String> {
        let step = self.steps.iter().find(|step| matches!(step.action, Action::Hash(_)))?;
        key().is_none().then(|| {
            let number = step.number;
            format!(
                "found no setting `{SETTING}` of {MIN_KEY} bytes or more; expected one, with which `step[{number}].hash` of the mapping hashes"
            )
        })
    }
}

/// Returns the key, unless there is none, or a weak one.
fn key() -> Option<&'static str> {
    KEY.get_or_init(|| settings::get(SETTING).ok().flatten().filter(|key| key.len() >= MIN_KEY)).as_deref()
}

/// Returns the hash of a text as hexadecimal digits.
pub(crate) fn hashed(text: &str, path: impl FnOnce() -> String) -> Result<String, Violation> {
    match key() {
        Some(key) => Ok(hashes::hmac_sha256(key, text)),
        None => {
            let message = format!(
                "found no setting `{SETTING}` of {MIN_KEY} bytes or more; expected one in `[guest_settings]`, so that this can be hashed"
            );
            Err(violation(path(), NO_HASH_KEY, message))
        }
    }
}
