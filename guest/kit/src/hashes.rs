//! Hashes, in hexadecimal digits: for what must be compared, and not be read.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Returns the SHA-256 of a text.
///
/// Who can guess the text, such as an e-mail address, can find it by its hash: see [`hmac_sha256`].
///
/// ```
/// assert!(sluicegate_kit::hashes::sha256("abc").starts_with("ba7816bf8f01cfea"));
/// ```
#[must_use]
pub fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// Returns the HMAC of a text, by SHA-256 and a key of the settings. Who does not have the key cannot find the text by guessing.
///
/// ```
/// let hash = sluicegate_kit::hashes::hmac_sha256("Jefe", "what do ya want for nothing?");
/// assert_eq!(hash, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
/// ```
#[must_use]
pub fn hmac_sha256(key: &str, text: &str) -> String {
    match Hmac::<Sha256>::new_from_slice(key.as_bytes()) {
        Ok(mac) => hex(&mac.chain_update(text).finalize().into_bytes()),
        Err(_) => unreachable!("a key of any length will do"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
