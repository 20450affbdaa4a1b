//! How much may change, as `--fail-on` has it.

use std::str::FromStr;

/// The kinds of outcomes, as lines have them.
const KINDS: [&str; 5] = ["accept", "expand", "reject", "discard", "fault"];

/// A limit for entries whose outcome changes from one kind to another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limit {
    text: String,
    /// `None` stands for any kind.
    from: Option<&'static str>,
    to: Option<&'static str>,
    most: Most,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Most {
    Entries(u64),
    Percent(f64),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!(
                "found {text:?}; wanted FROM->TO>LIMIT, with {} or * for each side, and a limit such as 0 or 0.1%",
                KINDS.join(", ")
            )
        };
        let (change, most) = text.rsplit_once('>').ok_or_else(wanted)?;
        let (from, to) = change.split_once("->").ok_or_else(wanted)?;
        let kind = |text: &str| match text.trim() {
            "*" => Ok(None),
            text => KINDS.into_iter().find(|kind| *kind == text).map(Some).ok_or_else(wanted),
        };
        let most = match most.trim().strip_suffix('%') {
            None => Most::Entries(most.trim().parse().map_err(|_| wanted())?),
            Some(percent) => {
                let percent: f64 = percent.trim().parse().map_err(|_| wanted())?;
                Most::Percent(
                    Some(percent).filter(|percent| (0.0..=100.0).contains(percent)).ok_or_else(wanted)?,
                )
            }
        };
        Ok(Self { text: text.to_owned(), from: kind(from)?, to: kind(to)?, most })
    }
}

impl Limit {
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether a change from one kind to the other counts.
    pub(super) fn is_about(&self, from: &str, to: &str) -> bool {
        self.from.is_none_or(|kind| kind == from) && self.to.is_none_or(|kind| kind == to)
    }

    /// Returns whether so many changes of so many entries are too many.
    pub(super) fn is_exceeded(&self, changes: u64, entries: u64) -> bool {
        match self.most {
            Most::Entries(most) => changes > most,
            #[allow(clippy::cast_precision_loss, reason = "a share needs no more digits")]
            Most::Percent(percent) => changes as f64 * 100.0 > percent * entries as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let limit: Limit = "accept->reject>0.1%".parse().expect("a limit");
        assert!(limit.is_about("accept", "reject") && !limit.is_about("accept", "accept"));
        assert!(!limit.is_exceeded(1, 1_000) && limit.is_exceeded(2, 1_000) && !limit.is_exceeded(0, 0));
        let limit: Limit = "* -> fault > 3".parse().expect("a limit");
        assert!(limit.is_about("discard", "fault") && !limit.is_exceeded(3, 3) && limit.is_exceeded(4, 4));
        for bad in [
            "",
            "accept",
            "accept->reject",
            "accept>reject>1",
            "accept->store>1",
            "*->*>-1",
            "*->*>101%",
            "*->*>%",
        ] {
            let error = bad.parse::<Limit>().expect_err(bad);
            assert!(error.contains("FROM->TO>LIMIT"), "{error}");
        }
    }
}
