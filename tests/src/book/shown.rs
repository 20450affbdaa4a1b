//! Compares what a page shows with what came.

/// Stands for what varies: within a line for any text, alone in a line for any lines.
const ANYTHING: &str = "…";

/// Returns whether what came is what the page shows.
pub(super) fn is_as_shown(shown: &str, found: &str) -> bool {
    let lines = |text| str::lines(text).map(str::trim_end).collect::<Vec<_>>();
    are_lines(&lines(shown.trim_end()), &lines(found.trim_end()))
}

fn are_lines(shown: &[&str], found: &[&str]) -> bool {
    match shown.split_first() {
        None => found.is_empty(),
        Some((first, rest)) if first.trim() == ANYTHING => {
            (0..=found.len()).any(|skipped| are_lines(rest, &found[skipped..]))
        }
        Some((first, rest)) => {
            found.split_first().is_some_and(|(line, found)| is_line(first, line) && are_lines(rest, found))
        }
    }
}

fn is_line(shown: &str, found: &str) -> bool {
    let Some((start, rest)) = shown.split_once(ANYTHING) else {
        return shown == found;
    };
    let Some(found) = found.strip_prefix(start) else {
        return false;
    };
    // Every place where the rest may go on, since what is left out may contain it.
    found.char_indices().map(|(at, _)| at).chain([found.len()]).any(|at| is_line(rest, &found[at..]))
}
