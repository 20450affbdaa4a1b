//! Reads and derives identifiers.
//!
//! A row's key is its `event_id` and its time, and a redelivered entry must give the same rows. So an ID is derived from what the
//! entry says, and never made up: a random one (`Uuid::new_v4`) or one of the time (`now_v7`) comes, in a guest, from a generator
//! that is seeded by the first entry of the batch. The same entry in another batch would get another ID, and be stored twice.

use sha1::{Digest as _, Sha1};
use uuid::{Builder, Uuid};

/// Counts a UUID's characters with hyphens: the `uuid` crate reads shorter and longer forms too.
const LEN: usize = 36;

/// Says what [`read`] takes.
pub(crate) const EXPECTED: &str = "a UUID with hyphens such as `0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11`";

/// Reads a UUID of 36 characters with hyphens, of either case.
#[must_use]
pub fn read(text: &str) -> Option<Uuid> {
    if text.len() == LEN { Uuid::try_parse(text).ok() } else { None }
}

/// Derives an ID from a text: of a producer's ID that is no UUID, or of one row of several. The same namespace and text give the
/// same ID, in any language: it is a UUID of version 5.
///
/// ```
/// use sluicegate_kit::{Uuid, ids};
///
/// /// Chosen once, by any generator, and never changed.
/// const ORDERS: Uuid = Uuid::from_u128(0x0c7b6b3e_5a0e_4b0f_9d6c_2f1f6a3c8e11);
///
/// let order = ids::derive(ORDERS, "order-7");
/// let third_item = ids::derive(order, "2");
/// assert_eq!(third_item.to_string(), "5a108ad5-c89d-5dbd-9cea-8d713822ddf8");
/// ```
#[must_use]
pub fn derive(namespace: Uuid, text: &str) -> Uuid {
    let hash = Sha1::new().chain_update(namespace.as_bytes()).chain_update(text).finalize();
    let mut bytes = [0; 16];
    // A hash has 20 bytes.
    bytes.iter_mut().zip(hash).for_each(|(byte, hashed)| *byte = hashed);
    Builder::from_sha1_bytes(bytes).into_uuid()
}
