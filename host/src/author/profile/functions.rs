//! The functions with the most time, as a table.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use crate::stack_samples::{Stack, StackSamples};
use crate::text::printable;

/// So many functions are shown.
const SHOWN: usize = 10;

/// In how many samples a function was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Count {
    /// As the innermost one.
    own: usize,
    with_calls: usize,
}

/// Shows the functions with the most time of their own.
pub(super) fn tell(samples: &[StackSamples], out: &mut dyn Write) -> io::Result<()> {
    let counts = count(samples);
    let all: usize = samples.iter().map(|call| call.stacks.len()).sum();
    let percent = |part: usize| 100.0 * part as f64 / all.max(1) as f64;
    if !counts.is_empty() {
        writeln!(out, "    own  with calls  function")?;
    }
    for (name, Count { own, with_calls }) in counts.iter().take(SHOWN) {
        writeln!(out, "{:5.1} %     {:5.1} %  {}", percent(*own), percent(*with_calls), printable(name))?;
    }
    match counts.len().checked_sub(SHOWN) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(out, "                     and {more} more"),
    }
}

/// Counts the functions, those with the most time of their own first.
fn count(samples: &[StackSamples]) -> Vec<(&str, Count)> {
    let mut counts: HashMap<&str, Count> = HashMap::new();
    for call in samples {
        for Stack(stack) in &call.stacks {
            let names = || stack.iter().filter_map(|place| call.name(*place));
            if let Some(innermost) = names().next() {
                counts.entry(innermost).or_default().own += 1;
            }
            // A function that calls itself is there once.
            for name in names().collect::<HashSet<_>>() {
                counts.entry(name).or_default().with_calls += 1;
            }
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|(name, count), (other, others)| others.cmp(count).then(name.cmp(other)));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(functions: &[&str], stacks: &[&[u32]]) -> StackSamples {
        StackSamples {
            functions: functions.iter().map(|&name| name.to_owned()).collect(),
            stacks: stacks.iter().map(|stack| Stack(stack.to_vec())).collect(),
        }
    }

    #[test]
    fn functions_are_counted_by_name_over_all_calls() {
        let calls = [
            call(&["hot", "process"], &[&[0, 1], &[0, 0, 0, 1], &[1]]),
            call(&["process", "hot", "ho\u{202e}t"], &[&[1, 0], &[2, 0]]),
        ];
        let mut out = Vec::new();
        tell(&calls, &mut out).expect("written");
        let expected = "    own  with calls  function
 60.0 %      60.0 %  hot
 20.0 %     100.0 %  process
 20.0 %      20.0 %  ho\\u{202e}t
";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }
}
