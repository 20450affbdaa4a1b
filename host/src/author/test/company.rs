//! Judges each golden alone, and in the company of the others of its file: with all of them, reversed, and in halves. Rules
//! must answer the same (invariant 5).

use serde_json::Value;

use super::effects;
use super::expect::{self, Difference, How};
use super::goldens::GoldenFile;
use crate::author::Error;
use crate::author::asker::{Asked, Asker};
use crate::batch::Judged;
use sluicegate_verdicts::Entry;
use sluicegate_verdicts::format::OutcomeView;

/// What came of a golden.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// As a golden would expect it.
    pub(super) outcome: Value,
    pub(super) published: Value,
    pub(super) counted: Value,
}

/// An answer that is another one in company.
#[derive(Clone, Debug)]
pub(super) struct InCompany {
    /// Such as `among the others of its file`.
    pub(super) company: &'static str,
    pub(super) alone: Value,
    pub(super) other: Value,
    pub(super) differences: Vec<Difference>,
    /// What it may come from.
    pub(super) cause: &'static str,
}

/// What came of the goldens of a file.
pub(super) struct Companies {
    /// For each golden that is meant, or why it was not decided.
    alone: Vec<Option<Result<Answer, String>>>,
    companies: Vec<Company>,
}

/// The answers in one company, one for each golden of the file.
struct Company {
    name: &'static str,
    outcomes: Vec<Value>,
}

impl Companies {
    /// Judges those of the goldens alone that are meant, and all together.
    pub(super) async fn judge(
        asker: &Asker,
        batch_size: usize,
        file: &GoldenFile,
        meant: &[usize],
    ) -> Result<Self, Error> {
        let mut alone: Vec<Option<Result<Answer, String>>> = file.goldens.iter().map(|_| None).collect();
        for at in meant {
            let (Some(golden), Some(place)) = (file.goldens.get(*at), alone.get_mut(*at)) else { continue };
            *place = Some(match asker.ask(vec![golden.entry.clone()]).await {
                Ok(asked) => Ok(Answer::new(&asked)?),
                Err(Error::NoFake(message)) => Err(message),
                Err(error) => return Err(error),
            });
        }
        let mut companies = Vec::new();
        let forward: Vec<Entry> = file.goldens.iter().map(|golden| golden.entry.clone()).collect();
        if forward.len() > 1 {
            let reversed: Vec<Entry> = forward.iter().rev().cloned().collect();
            let (left, right) = forward.split_at(forward.len() / 2);
            for (name, parts) in [
                ("among the others of its file", vec![forward.as_slice()]),
                ("among the others in reverse order", vec![reversed.as_slice()]),
                ("among half of the others", vec![left, right]),
            ] {
                // What lacks a fake is told where it is judged alone.
                let Some(mut outcomes) = outcomes(asker, batch_size, &parts).await? else { continue };
                if parts.len() == 1 && name.contains("reverse") {
                    outcomes.reverse();
                }
                companies.push(Company { name, outcomes });
            }
        }
        Ok(Self { alone, companies })
    }

    /// Returns what came of this golden alone, if it is meant.
    pub(super) fn alone(&self, at: usize) -> Option<&Result<Answer, String>> {
        self.alone.get(at)?.as_ref()
    }

    /// Returns the companies in which this golden got another answer.
    pub(super) fn differences(&self, at: usize) -> Vec<InCompany> {
        let Some(Ok(alone)) = self.alone(at) else { return Vec::new() };
        let other = |company: &Company| {
            let other = company.outcomes.get(at)?;
            let differences = differences(&alone.outcome, other);
            (!differences.is_empty()).then(|| InCompany {
                company: company.name,
                alone: alone.outcome.clone(),
                other: other.clone(),
                differences,
                cause: cause(&alone.outcome, other),
            })
        };
        self.companies.iter().filter_map(other).collect()
    }
}

/// Judges the parts in batches of the service's size. Returns nothing if a fake lacks.
async fn outcomes(asker: &Asker, batch_size: usize, parts: &[&[Entry]]) -> Result<Option<Vec<Value>>, Error> {
    let mut outcomes = Vec::new();
    for batch in parts.iter().flat_map(|part| part.chunks(batch_size.max(1))) {
        match asker.ask(batch.to_vec()).await {
            Ok(asked) => outcomes.extend(asked.judged.iter().map(outcome).collect::<Result<Vec<_>, _>>()?),
            Err(Error::NoFake(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(outcomes))
}

fn outcome(judged: &Judged) -> serde_json::Result<Value> {
    serde_json::to_value(OutcomeView::new(&judged.outcome))
}

impl Answer {
    fn new(asked: &Asked) -> Result<Self, Error> {
        Ok(Self {
            outcome: asked.judged.first().map(outcome).transpose()?.unwrap_or_default(),
            published: effects::publications(&asked.effects.publications),
            counted: effects::samples(&asked.effects.samples),
        })
    }
}

/// Returns where the answers differ. A fault's message tells how far the rules were, which is no part of the answer.
fn differences(alone: &Value, other: &Value) -> Vec<Difference> {
    match alone.get("fault").is_some() && alone.get("fault") == other.get("fault") {
        true => Vec::new(),
        false => expect::compare("", alone, other, How::Exactly),
    }
}

/// Returns what another answer in company may come from.
fn cause(alone: &Value, other: &Value) -> &'static str {
    let is_limit = |outcome: &Value| {
        let reason = outcome.get("fault").and_then(Value::as_str).unwrap_or_default();
        reason == "timed_out" || reason.starts_with("out_of_") || reason.starts_with("too_m")
    };
    match is_limit(alone) || is_limit(other) {
        true => "the batch is more than the limits allow, which this entry alone is not",
        false => {
            "rules must answer the same whatever else is in the batch; these keep something from one entry for the next, or use \
             the clock or randomness, which are those of the first entry of a call"
        }
    }
}
