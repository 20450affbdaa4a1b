//! Reads what can be set about the demo.

use std::path::PathBuf;
use std::time::Duration;

use super::Error;

const SECONDS_DEFAULT: u64 = 20;
const SECONDS: std::ops::RangeInclusive<u64> = 5..=300;

/// Holds `DEMO_SECONDS` and the like.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Says how long events are generated.
    pub(super) duration: Duration,
    pub(super) seed: u64,
    /// Holds `METRICS_CSV`, as the service will have it.
    pub(super) metrics_csv: PathBuf,
    /// Names the service's log, beside the metrics file.
    pub(super) log: PathBuf,
}

impl Settings {
    pub(super) fn from_environment() -> Result<Self, Error> {
        let metrics_csv = match variable("METRICS_CSV") {
            Some(path) => PathBuf::from(path),
            None => sluicegate::config::Config::default().metrics_csv,
        };
        Ok(Self {
            duration: seconds(variable("DEMO_SECONDS").as_deref())?,
            seed: match variable("DEMO_SEED") {
                None => u64::from(fastrand::u32(..)),
                Some(found) => found.parse().map_err(|_| Error::Setting {
                    name: "DEMO_SEED",
                    found,
                    wanted: format!("a whole number, 0 to {}", u64::MAX),
                })?,
            },
            log: metrics_csv.with_file_name("demo.log"),
            metrics_csv,
        })
    }
}

fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(value)
}

fn seconds(text: Option<&str>) -> Result<Duration, Error> {
    let Some(text) = text else { return Ok(Duration::from_secs(SECONDS_DEFAULT)) };
    match text.parse() {
        Ok(seconds) if SECONDS.contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::Setting {
            name: "DEMO_SECONDS",
            found: text.to_owned(),
            wanted: format!("whole seconds, {} to {}", SECONDS.start(), SECONDS.end()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_a_range() {
        assert_eq!(seconds(None).expect("the default"), Duration::from_secs(20));
        assert_eq!(seconds(Some("5")).expect("in range"), Duration::from_secs(5));
        for bad in ["4", "301", "-1", "2.5", "ten", " 5"] {
            let error = seconds(Some(bad)).expect_err(bad).to_string();
            assert_eq!(error, format!("DEMO_SECONDS is `{bad}`; wanted whole seconds, 5 to 300"));
        }
    }
}
