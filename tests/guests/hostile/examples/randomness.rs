//! Throws dice, in each way there is. They fall the same way for the same batch.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use hostile::wasi::random::{get_random_bytes, get_random_u64};

hostile::provoked!(|entry| {
    let dice = [RandomState::new().hash_one(0), RandomState::new().hash_one(0), get_random_u64()];
    let bytes = get_random_bytes(16);
    hostile::tell(entry, format!("{{\"dice\":{dice:?},\"bytes\":{bytes:?}}}"))
});
