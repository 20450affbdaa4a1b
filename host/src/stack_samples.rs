//! Where the code of rules was when it was looked at, about once a millisecond: pure data, which a worker makes for
//! `sluicegate rules profile`.

use serde::{Deserialize, Serialize};

/// Bounds the samples that are kept.
pub const MAX_STACKS: usize = 10_000;
/// Bounds the functions of a stack that are kept: the innermost ones.
pub const MAX_FRAMES: usize = 128;
/// Bounds the functions that are told apart in the samples of a call.
pub const MAX_FUNCTIONS: usize = 4_000;
/// Bounds the bytes of a function's name, in which what is not printable may have been escaped.
const MAX_NAME_BYTES: usize = 2_000;

/// Holds the samples of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackSamples {
    /// The names of functions. Several may have the same one.
    #[serde(deserialize_with = "sluicegate_verdicts::bounded::list")]
    pub functions: Vec<String>,
    /// In the order in which they were taken.
    #[serde(deserialize_with = "sluicegate_verdicts::bounded::list")]
    pub stacks: Vec<Stack>,
}

/// Holds the functions in which guest code was at a time, the innermost first, as places in the list of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack(#[serde(deserialize_with = "sluicegate_verdicts::bounded::list")] pub Vec<u32>);

impl StackSamples {
    /// Returns whether there is room for one more sample, whatever its functions are.
    pub fn has_room(&self) -> bool {
        self.stacks.len() < MAX_STACKS && self.functions.len() <= MAX_FUNCTIONS - MAX_FRAMES
    }

    /// Returns whether a worker that does what it should can have made this.
    pub fn is_within(&self) -> bool {
        self.stacks.len() <= MAX_STACKS
            && self.functions.len() <= MAX_FUNCTIONS
            && self.functions.iter().all(|name| name.len() <= MAX_NAME_BYTES)
            && self.stacks.iter().all(|Stack(stack)| {
                stack.len() <= MAX_FRAMES && stack.iter().all(|place| self.name(*place).is_some())
            })
    }

    /// Returns the name of the function at a place.
    pub fn name(&self, place: u32) -> Option<&str> {
        self.functions.get(usize::try_from(place).ok()?).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_worker_makes_is_found_out() {
        for (is_within, functions, name_bytes, stacks, stack) in [
            (true, 0, 0, 0, vec![]),
            (true, 2, MAX_NAME_BYTES, MAX_STACKS, vec![1, 0, 1]),
            (true, MAX_FUNCTIONS, 1, 1, vec![0; MAX_FRAMES]),
            (false, MAX_FUNCTIONS + 1, 1, 1, vec![0]),
            (false, 1, MAX_NAME_BYTES + 1, 1, vec![0]),
            (false, 1, 1, MAX_STACKS + 1, vec![0]),
            (false, 1, 1, 1, vec![0; MAX_FRAMES + 1]),
            (false, 1, 1, 1, vec![1]),
        ] {
            let made = StackSamples {
                functions: vec!["f".repeat(name_bytes); functions],
                stacks: vec![Stack(stack); stacks],
            };
            assert_eq!(made.is_within(), is_within, "{functions} functions, {stacks} stacks");
        }
    }
}
