//! Keeps the metrics of guests: counters and histograms of their own, limited in number.

use std::collections::BTreeMap;
use std::fmt;

use crate::capabilities::{Sample, Series};
use crate::text::printable;

/// The largest number of series of one tenant. Samples of further ones are counted as dropped.
const MAX_SERIES: usize = 100;

/// All series, with their values since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct AllSeries {
    values: BTreeMap<Series, Value>,
    dropped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Counter(u64),
    Histogram { count: u64, sum: f64, min: f64, max: f64 },
}

/// Labels for export, of which `name` is the name of the series.
pub(super) type Labels = Vec<(String, String)>;

impl AllSeries {
    /// Returns the series with labels that others can read. Their names are valid already, as
    /// [`Series`] are checked.
    pub(super) fn for_export(&self) -> BTreeMap<Labels, Value> {
        let mut export = BTreeMap::new();
        for (series, value) in &self.values {
            // Only names that a guest gave twice are lost here.
            export.entry(labels(series)).or_insert(*value);
        }
        export
    }

    /// Adds the samples of a batch, and the number of those that were dropped already.
    pub(super) fn add(&mut self, samples: Vec<(Series, Sample)>, dropped: u64) {
        self.dropped = self.dropped.saturating_add(dropped);
        for (series, sample) in samples {
            if self.values.len() >= MAX_SERIES && !self.values.contains_key(&series) {
                self.dropped += 1;
                continue;
            }
            let value = self.values.entry(series).or_insert(match sample {
                Sample::Add(_) => Value::Counter(0),
                Sample::Observe(value) => Value::Histogram { count: 0, sum: 0.0, min: value, max: value },
            });
            match (value, sample) {
                (Value::Counter(total), Sample::Add(count)) => *total = total.saturating_add(count),
                (Value::Histogram { count, sum, min, max }, Sample::Observe(value)) => {
                    *count += 1;
                    *sum += value;
                    *min = min.min(value);
                    *max = max.max(value);
                }
                // A series is either a counter or a histogram.
                (Value::Counter(_), Sample::Observe(_)) | (Value::Histogram { .. }, Sample::Add(_)) => {
                    self.dropped += 1;
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty() && self.dropped == 0
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Returns the labels of a series. One that would hide a label of the service, or that Prometheus
/// keeps for itself, has another name, and of two with the same name the first remains. A worker may
/// have left them in any order.
fn labels(Series { name, labels }: &Series) -> Labels {
    let mut all: Labels = Vec::new();
    for (label, value) in labels {
        let is_taken = ["tenant", "name", "le", "quantile"].contains(&label.as_str());
        let label = match is_taken || label.starts_with("__") {
            true => format!("guest_{label}"),
            false => label.clone(),
        };
        if !all.iter().any(|(other, _)| *other == label) {
            all.push((label, printable(value).into_owned()));
        }
    }
    all.sort();
    all.insert(0, ("name".to_owned(), name.clone()));
    all
}

/// Formats a line of the log: `purchases{plan="gold"}=12 amount=count:3,sum:7.5,min:1,max:4`.
impl fmt::Display for AllSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (Series { name, labels }, value)) in self.values.iter().enumerate() {
            write!(f, "{}{name}", if at == 0 { "" } else { " " })?;
            if !labels.is_empty() {
                let labels: Vec<String> =
                    labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
                write!(f, "{{{}}}", labels.join(","))?;
            }
            match value {
                Value::Counter(total) => write!(f, "={total}")?,
                Value::Histogram { count, sum, min, max } => {
                    write!(f, "=count:{count},sum:{sum},min:{min},max:{max}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str) -> Series {
        Series { name: name.to_owned(), labels: vec![("plan".to_owned(), "gold".to_owned())] }
    }

    #[test]
    fn a_line_tells_them_all() {
        let mut all = AllSeries::default();
        let amount = || Series { name: "amount".to_owned(), labels: Vec::new() };
        all.add(
            vec![
                (series("purchases"), Sample::Add(2)),
                (amount(), Sample::Observe(1.5)),
                (series("purchases"), Sample::Add(3)),
                (amount(), Sample::Observe(4.0)),
                (amount(), Sample::Add(1)),
            ],
            2,
        );
        assert_eq!(all.to_string(), "amount=count:2,sum:5.5,min:1.5,max:4 purchases{plan=\"gold\"}=5");
        assert_eq!(all.dropped(), 3, "amount is a histogram");
    }

    #[test]
    fn there_is_a_bound() {
        let mut all = AllSeries::default();
        all.add((0..1_000).map(|i| (series(&i.to_string()), Sample::Add(1))).collect(), 0);
        assert_eq!((all.values.len(), all.dropped()), (MAX_SERIES, 900));
    }
}
