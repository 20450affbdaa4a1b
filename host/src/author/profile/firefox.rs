//! The file that the Firefox Profiler opens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fxprof_processed_profile::{
    CategoryColor, CpuDelta, Frame, FrameFlags, FrameInfo, Profile, ReferenceTimestamp, SamplingInterval,
    Timestamp,
};

use crate::stack_samples::{Stack, StackSamples};
use crate::text::printable;

/// Makes a profile of the samples, which were taken over so much processor time: that is its time line.
pub(super) fn profile(
    component: &str,
    begun: SystemTime,
    time: Duration,
    samples: &[StackSamples],
) -> Profile {
    let taken: usize = samples.iter().map(|call| call.stacks.len()).sum();
    // Samples are taken at random, so they are as far from each other in the middle.
    let interval = time / u32::try_from(taken).unwrap_or(u32::MAX).max(1);
    let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    let begun = begun.duration_since(UNIX_EPOCH).unwrap_or_default();
    let begun = ReferenceTimestamp::from_duration_since_unix_epoch(begun);
    let mut profile = Profile::new("sluicegate rules", begun, SamplingInterval::from_nanos(nanos));
    profile.set_symbolicated(true);
    let category = profile.add_category("Rules", CategoryColor::Blue);
    let mut now = 0_u64;
    let process = profile.add_process(component, 0, Timestamp::from_nanos_since_reference(now));
    let thread = profile.add_thread(process, 0, Timestamp::from_nanos_since_reference(now), true);
    for call in samples {
        let frames: Vec<FrameInfo> = call
            .functions
            .iter()
            .map(|name| FrameInfo {
                frame: Frame::Label(profile.intern_string(&printable(name))),
                category_pair: category.into(),
                flags: FrameFlags::empty(),
            })
            .collect();
        for Stack(stack) in &call.stacks {
            let names = stack.iter().rev().filter_map(|place| frames.get(usize::try_from(*place).ok()?));
            let stack = profile.intern_stack_frames(thread, names.cloned());
            now = now.saturating_add(nanos);
            let at = Timestamp::from_nanos_since_reference(now);
            profile.add_sample(thread, at, stack, CpuDelta::from_nanos(nanos), 1);
        }
    }
    profile
}
