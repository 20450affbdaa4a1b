//! Reads a mapping, and refuses what is not supported with the key at which it stands.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Number, Value};

use super::condition::{self, Compiler};
use super::epoch::Unit;
use super::path::{FIELDS, Path};
use super::step::{Action, Limits, Step};
use super::{DATA, Mapping};
use crate::breach::PROPERTIES;

/// Bounds the steps of a mapping.
const MAX_STEPS: usize = 200;

/// Holds the file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<String>,
    #[serde(default)]
    fields: BTreeMap<String, Sources>,
    #[serde(default)]
    step: Vec<StepTable>,
}

/// Holds one path, or several, of which the first with a value counts.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a path, or a list of paths")]
enum Sources {
    One(String),
    Several(Vec<String>),
}

/// Holds a step as it is written: one action, and perhaps a condition.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepTable {
    r#if: Option<String>,
    default: Option<BTreeMap<String, Value>>,
    rename: Option<BTreeMap<String, String>>,
    drop: Option<Vec<String>>,
    hash: Option<Vec<String>>,
    uuid: Option<Vec<String>>,
    truncate: Option<BTreeMap<String, usize>>,
    clamp: Option<BTreeMap<String, LimitsTable>>,
    epoch: Option<BTreeMap<String, String>>,
    discard: Option<String>,
    split: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsTable {
    min: Option<Number>,
    max: Option<Number>,
}

/// Collects what is wrong, each with its key.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn note<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|error| self.0.push(format!("at `{key}`: {error}"))).ok()
    }
}

/// Makes the mapping, or returns all that is wrong with it.
pub(crate) fn compile(file: Value) -> Result<Mapping, Vec<String>> {
    let file: File = serde_path_to_error::deserialize(file)
        .map_err(|error| vec![format!("at `{}`: {}", error.path(), error.inner())])?;
    let (mut wrong, mut compiler) = (Wrong::default(), Compiler::default());
    let mut fields: BTreeMap<String, Sources> =
        FIELDS.map(|field| (field.to_owned(), Sources::One(field.to_owned()))).into();
    fields.extend(file.fields);
    let fields = fields
        .into_iter()
        .filter_map(|(target, sources)| {
            let key = format!("fields.{target}");
            let sources = match sources {
                Sources::One(source) => vec![source],
                Sources::Several(sources) => sources,
            };
            let sources = sources.iter().filter_map(|source| wrong.note(&key, Path::parse(source))).collect();
            let target = wrong.note(&key, Path::in_event(&target))?;
            Some((target, sources))
        })
        .collect();
    if file.step.len() > MAX_STEPS {
        wrong.0.push(format!("at `step`: found {} steps, expected at most {MAX_STEPS}", file.step.len()));
    }
    let steps: Vec<Step> = file
        .step
        .into_iter()
        .take(MAX_STEPS)
        .enumerate()
        .filter_map(|(number, table)| step(number, table, &mut compiler, &mut wrong))
        .collect();
    if steps.iter().filter(|step| matches!(step.action, Action::Split(_))).count() > 1 {
        wrong.0.push("at `step`: found two steps with `split`, expected at most one".to_owned());
    }
    let env = wrong.note("step", condition::environment());
    match env {
        Some(env) if wrong.0.is_empty() => {
            compiler.finish();
            Ok(Mapping { data: file.data.unwrap_or_else(|| DATA.to_owned()), fields, steps, env })
        }
        _ => Err(wrong.0),
    }
}

fn step(number: usize, table: StepTable, compiler: &mut Compiler, wrong: &mut Wrong) -> Option<Step> {
    let key = format!("step[{number}]");
    let condition = table.r#if.map(|text| wrong.note(&format!("{key}.if"), compiler.compile(&text)));
    let (mut actions, told) = (Vec::new(), wrong.0.len());
    if let Some(values) = table.default {
        actions.push(Action::Default(each(values, &key, "default", wrong, default)));
    }
    if let Some(names) = table.rename {
        actions.push(Action::Rename(each(names, &key, "rename", wrong, |to| Path::in_event(&to))));
    }
    if let Some(paths) = table.drop {
        actions.push(Action::Drop(all(&paths, &key, "drop", wrong)));
    }
    if let Some(paths) = table.hash {
        actions.push(Action::Hash(all(&paths, &key, "hash", wrong)));
    }
    if let Some(paths) = table.uuid {
        actions.push(Action::Uuid(all(&paths, &key, "uuid", wrong)));
    }
    if let Some(limits) = table.truncate {
        actions.push(Action::Truncate(each(limits, &key, "truncate", wrong, Ok)));
    }
    if let Some(limits) = table.clamp {
        actions.push(Action::Clamp(each(limits, &key, "clamp", wrong, clamp)));
    }
    if let Some(units) = table.epoch {
        actions.push(Action::Epoch(each(units, &key, "epoch", wrong, |name| unit(&name))));
    }
    if let Some(reason) = table.discard {
        let reason = if is_code(&reason) {
            Ok(reason)
        } else {
            Err(format!("found `{reason}`, expected a short name in snake case, since it is counted"))
        };
        actions.extend(wrong.note(&format!("{key}.discard"), reason).map(Action::Discard));
    }
    if let Some(path) = table.split {
        let path = Path::in_event(&path).and_then(|path| match path.names() {
            [_, _, ..] => Ok(path),
            _ => Err(format!("found `{path}`, expected a path within `{PROPERTIES}`")),
        });
        actions.extend(wrong.note(&format!("{key}.split"), path).map(Action::Split));
    }
    let count = actions.len();
    match (actions.pop(), count) {
        (Some(action), 1) => Some(Step { number, condition: condition.flatten(), action }),
        // What is wrong with its only one has been told.
        (None, _) if wrong.0.len() > told => None,
        _ => {
            wrong.0.push(format!("at `{key}`: found {count} actions, expected one; write a step for each"));
            None
        }
    }
}

/// Reads the paths of a list.
fn all(paths: &[String], key: &str, action: &str, wrong: &mut Wrong) -> Vec<Path> {
    let key = format!("{key}.{action}");
    paths.iter().filter_map(|path| wrong.note(&key, Path::in_event(path))).collect()
}

/// Reads a table with a path as each key.
fn each<V, T>(
    table: BTreeMap<String, V>,
    key: &str,
    action: &str,
    wrong: &mut Wrong,
    read: impl Fn(V) -> Result<T, String>,
) -> Vec<(Path, T)> {
    let mut read_all = Vec::new();
    for (path, value) in table {
        let key = format!("{key}.{action}.\"{path}\"");
        let (path, value) = (wrong.note(&key, Path::in_event(&path)), wrong.note(&key, read(value)));
        read_all.extend(path.zip(value));
    }
    read_all
}

fn default(value: Value) -> Result<String, String> {
    match value {
        Value::Object(_) => {
            Err("found a table, expected a value; a path stands in quotes: `\"a.b\" = …`".to_owned())
        }
        Value::Null => Err("found what JSON cannot say, expected a value".to_owned()),
        value => Ok(value.to_string()),
    }
}

fn clamp(LimitsTable { min, max }: LimitsTable) -> Result<Limits, String> {
    let value = |number: &Option<Number>| number.as_ref().and_then(Number::as_f64);
    match (value(&min), value(&max)) {
        (None, None) => Err("found neither `min` nor `max`, expected one or both".to_owned()),
        (Some(least), Some(most)) if least > most => {
            Err(format!("found a `min` of {least} above the `max` of {most}"))
        }
        _ => Ok(Limits { min, max }),
    }
}

fn unit(name: &str) -> Result<Unit, String> {
    Unit::ALL.into_iter().find(|unit| unit.name() == name).ok_or_else(|| {
        let names = Unit::ALL.map(|unit| format!("`{}`", unit.name()));
        format!("found the unit `{name}`, expected one of {}", names.join(", "))
    })
}

/// Returns whether a reason can be counted: see the contract in `wit/`.
fn is_code(reason: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !reason.is_empty() && reason.len() <= 64 && reason.chars().all(is_plain)
}
