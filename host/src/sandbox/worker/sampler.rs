//! Notes where guest code is, about once a millisecond, for `sluicegate rules profile`.

use std::collections::BTreeMap;

use wasmtime::{FrameInfo, Store, Trap, UpdateDeadline, WasmBacktrace};

use super::instance::{State, function_name};
use crate::stack_samples::{MAX_FRAMES, Stack, StackSamples};

/// Keeps the samples of one call.
#[derive(Default)]
pub(super) struct Sampler {
    pub(super) samples: StackSamples,
    /// Holds the places of functions in the list of names, by their indices and names as the component has them.
    places: BTreeMap<(u32, Option<String>), u32>,
}

/// Takes a sample each time the epoch moves, until the time limit is over.
///
/// Code looks at the epoch where it loops and where a function begins. So what a call to the host takes, or code without
/// loops, counts for the place that looks next.
pub(super) fn sample(store: &mut Store<State>, is_over: impl Fn() -> bool + Send + Sync + 'static) {
    store.epoch_deadline_callback(move |mut store| {
        if is_over() {
            return Err(Trap::Interrupt.into());
        }
        if store.data().sampler.samples.has_room() {
            let trace = WasmBacktrace::force_capture(&store);
            store.data_mut().sampler.note(trace.frames());
        }
        Ok(UpdateDeadline::Continue(1))
    });
}

impl Sampler {
    fn note(&mut self, frames: &[FrameInfo]) {
        let stack = frames.iter().take(MAX_FRAMES).map(|frame| self.place(frame)).collect();
        self.samples.stacks.push(Stack(stack));
    }

    /// Returns the place of a function in the list of names.
    fn place(&mut self, frame: &FrameInfo) -> u32 {
        let names = &mut self.samples.functions;
        let key = (frame.func_index(), frame.func_name().map(str::to_owned));
        *self.places.entry(key).or_insert_with(|| {
            names.push(function_name(frame));
            u32::try_from(names.len() - 1).unwrap_or(u32::MAX)
        })
    }
}
