//! What a comparison found, for people and for programs. The same entries give the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use serde::ser::Serializer;

use super::changes::Change;
use super::limit::Limit;
use crate::author::outcome_class::{OutcomeClass, without_numbers};
use crate::batch::Version;
use crate::text::printable;
use sluicegate_verdicts::EntryId;
use sluicegate_verdicts::format::OutcomeView;

/// The most groups of changes. Entries of further ones are counted together.
const MAX_GROUPS: usize = 1_000;
/// Stands for the groups beyond.
const OTHERS: &str = "(others)";
/// The most bytes of an outcome that is shown.
const MAX_SHOWN_BYTES: usize = 4_096;
/// The most characters of an outcome that people are shown.
const MAX_SHOWN_CHARS: usize = 300;

/// What would change, and how often.
#[derive(Serialize)]
pub(super) struct Report {
    old: Side,
    new: Side,
    entries: u64,
    same: u64,
    #[serde(serialize_with = "as_list")]
    changes: BTreeMap<Kinds, Group>,
    #[serde(skip)]
    groups: usize,
    #[serde(skip)]
    max_examples: usize,
}

/// A version that was compared.
#[derive(Serialize)]
struct Side {
    /// As it was asked for.
    name: String,
    version: String,
}

/// From one kind of outcome to another.
type Kinds = (&'static str, &'static str);

/// Entries whose outcomes change from one kind to another, by what the outcomes say.
#[derive(Default)]
struct Group {
    entries: u64,
    whats: BTreeMap<String, What>,
}

#[derive(Default, Serialize)]
struct What {
    entries: u64,
    examples: Vec<Example>,
}

/// An entry whose outcome changes.
#[derive(Serialize)]
pub(super) struct Example {
    id: String,
    old: serde_json::Value,
    new: serde_json::Value,
    /// Where its rows differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed: Vec<Change>,
}

impl Report {
    pub(super) fn new(old: (&str, Version), new: (&str, Version), max_examples: usize) -> Self {
        let side =
            |(name, version): (&str, Version)| Side { name: name.to_owned(), version: version.to_string() };
        let (old, new) = (side(old), side(new));
        Self { old, new, entries: 0, same: 0, changes: BTreeMap::new(), groups: 0, max_examples }
    }

    /// Counts an entry of which the same comes.
    pub(super) fn count_same(&mut self) {
        self.entries += 1;
        self.same += 1;
    }

    /// Counts an entry whose outcome changes, with where its rows differ.
    pub(super) fn count(&mut self, id: EntryId, old: &OutcomeView, new: &OutcomeView, changed: Vec<Change>) {
        self.entries += 1;
        let group = self.changes.entry((old.kind(), new.kind())).or_default();
        group.entries += 1;
        let mut what = what_changes(old, new, &changed);
        if !group.whats.contains_key(&what) {
            match self.groups < MAX_GROUPS {
                true => self.groups += 1,
                false => OTHERS.clone_into(&mut what),
            }
        }
        let what = group.whats.entry(what).or_default();
        what.entries += 1;
        if what.examples.len() < self.max_examples {
            what.examples.push(Example { id: id.to_string(), old: shown(old), new: shown(new), changed });
        }
    }

    pub(super) fn exceeds(&self, limit: &Limit) -> bool {
        let about = self.changes.iter().filter(|((from, to), _)| limit.is_about(from, to));
        limit.is_exceeded(about.map(|(_, group)| group.entries).sum(), self.entries)
    }

    pub(super) fn write_json(&self, exceeded: &[&Limit], out: &mut dyn Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            report: &'a Report,
            exceeded: Vec<&'a str>,
        }
        let exceeded = exceeded.iter().map(|limit| limit.as_str()).collect();
        serde_json::to_writer(&mut *out, &Whole { report: self, exceeded })?;
        writeln!(out)
    }

    pub(super) fn write_text(&self, exceeded: &[&Limit], out: &mut dyn Write) -> io::Result<()> {
        let Self { old, new, entries, same, .. } = self;
        writeln!(
            out,
            "{} ({}) -> {} ({})",
            printable(&old.name),
            old.version,
            printable(&new.name),
            new.version
        )?;
        writeln!(out, "{entries} entries, {same} the same")?;
        for ((from, to), group) in &self.changes {
            writeln!(out, "\n{from} -> {to}: {} ({})", group.entries, self.share(group.entries))?;
            for (what, found) in &group.whats {
                writeln!(out, "  {:>8}  {}", found.entries, printable(what))?;
                found.examples.iter().try_for_each(|example| example.write_text(out))?;
            }
        }
        exceeded.iter().try_for_each(|limit| writeln!(out, "\nmore than --fail-on {} allows", limit.as_str()))
    }

    pub(super) fn write_markdown(&self, exceeded: &[&Limit], out: &mut dyn Write) -> io::Result<()> {
        let Self { old, new, entries, same, .. } = self;
        let (old_name, new_name) = (code(&old.name), code(&new.name));
        writeln!(
            out,
            "**Rules:** {old_name} ({}) → {new_name} ({})\n",
            code(&old.version),
            code(&new.version)
        )?;
        writeln!(out, "{entries} entries, {same} the same.")?;
        if !self.changes.is_empty() {
            writeln!(out, "\n| change | what | entries | share | for example |\n|---|---|---:|---:|---|")?;
        }
        for ((from, to), group) in &self.changes {
            for (what, found) in &group.whats {
                let example = found.examples.first().map(|example| code(&example.id)).unwrap_or_default();
                let (what, share) = (code(what), self.share(found.entries));
                writeln!(out, "| {from} → {to} | {what} | {} | {share} | {example} |", found.entries)?;
            }
        }
        exceeded.iter().try_for_each(|limit| {
            writeln!(out, "\n**More than {} allows.**", code(&format!("--fail-on {}", limit.as_str())))
        })
    }

    #[allow(clippy::cast_precision_loss, reason = "a share needs no more digits")]
    fn share(&self, entries: u64) -> String {
        format!("{:.2} %", entries as f64 * 100.0 / self.entries.max(1) as f64)
    }
}

impl Example {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.changed.is_empty() {
            writeln!(out, "            {}  {}", self.id, brief(&self.old.to_string()))?;
            return writeln!(
                out,
                "            {:>width$}  {}",
                "->",
                brief(&self.new.to_string()),
                width = self.id.len()
            );
        }
        for Change { path, old, new } in &self.changed {
            let value = |value: &Option<String>| value.as_deref().map_or("nothing".to_owned(), brief);
            writeln!(out, "            {}  {}: {} -> {}", self.id, brief(path), value(old), value(new))?;
        }
        Ok(())
    }
}

/// Returns what a change is about, in words that other entries share.
fn what_changes(old: &OutcomeView, new: &OutcomeView, changed: &[Change]) -> String {
    if !changed.is_empty() {
        let mut paths: Vec<String> = changed.iter().map(|change| without_numbers(&change.path)).collect();
        paths.sort();
        paths.dedup();
        return paths.join(", ");
    }
    let (before, after) = (OutcomeClass::text(old), OutcomeClass::text(new));
    let is_stored = |view: &OutcomeView| matches!(view, OutcomeView::Accept(_) | OutcomeView::Expand(_));
    match (is_stored(old), is_stored(new)) {
        (true, false) => after,
        (false, true) => before,
        _ => format!("{before} -> {after}"),
    }
}

fn shown(view: &OutcomeView) -> serde_json::Value {
    let text = serde_json::to_string(view).unwrap_or_default();
    match text.len() <= MAX_SHOWN_BYTES {
        true => serde_json::from_str(&text).unwrap_or_default(),
        false => format!("{} with {} bytes", view.kind(), text.len()).into(),
    }
}

fn brief(text: &str) -> String {
    let mut brief: String = printable(text).chars().take(MAX_SHOWN_CHARS).collect();
    if brief.len() < text.len() && text.chars().count() > MAX_SHOWN_CHARS {
        brief.push('…');
    }
    brief
}

/// Returns text of a stranger as code in a table of Markdown.
fn code(text: &str) -> String {
    format!("`{}`", printable(text).replace('`', "'").replace('|', "\\|"))
}

fn as_list<S: Serializer>(changes: &BTreeMap<Kinds, Group>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Listed<'a> {
        from: &'a str,
        to: &'a str,
        entries: u64,
        groups: Vec<ListedWhat<'a>>,
    }
    #[derive(Serialize)]
    struct ListedWhat<'a> {
        what: &'a str,
        #[serde(flatten)]
        found: &'a What,
    }
    serializer.collect_seq(changes.iter().map(|((from, to), group)| Listed {
        from,
        to,
        entries: group.entries,
        groups: group.whats.iter().map(|(what, found)| ListedWhat { what, found }).collect(),
    }))
}
