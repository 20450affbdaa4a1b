//! What was published and counted, as a golden has it.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::capabilities::{Publication, Sample, Series};

/// Returns `[{"stream":"…","fields":{…}}, …]`. Fields whose names repeat are a list of pairs.
pub(super) fn publications(publications: &[Publication]) -> Value {
    let shown = |Publication { stream, fields }: &Publication| {
        let mut names = BTreeSet::new();
        let fields: Value = match fields.iter().all(|(name, _)| names.insert(name)) {
            true => {
                fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>().into()
            }
            false => json!(fields),
        };
        json!({ "stream": stream, "fields": fields })
    };
    publications.iter().map(shown).collect()
}

/// Returns `[{"name":"…","labels":{…},"add":1}, …]`, with `observe` for a value of a histogram.
pub(super) fn samples(samples: &[(Series, Sample)]) -> Value {
    let shown = |(Series { name, labels }, sample): &(Series, Sample)| {
        let labels: Map<String, Value> =
            labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        match sample {
            Sample::Add(count) => json!({ "name": name, "labels": labels, "add": count }),
            Sample::Observe(value) => json!({ "name": name, "labels": labels, "observe": value }),
        }
    };
    samples.iter().map(shown).collect()
}
