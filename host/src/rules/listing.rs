//! Versions, deployments and replicas as text, for people, and as JSON.

use std::io::{self, Write};

use serde::Serialize;

use super::deploy::{Deployed, Status};
use super::view::{DeploymentView, StatusView, VersionView, manifest, second};
use crate::batch::Digest;
use crate::store::{Deployment, Replica, StoredVersion, Wanted};
use crate::text::{grouped, printable, printable_json};

pub(super) fn status(status: &Status, as_json: bool, out: &mut dyn Write) -> io::Result<()> {
    deployed(None, status, as_json, out)
}

/// Tells where each replica is, and what a deployment was given as.
pub(super) fn deployed(
    deployed: Option<&Deployed>,
    status: &Status,
    as_json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    if as_json {
        return line(&StatusView::new(status, deployed), out);
    }
    let Wanted { version, is_paused, author, message: because, action, since, .. } = &status.wanted;
    match (version, since) {
        (Some(stored), Some(since)) => {
            let action = action.map_or("deploy", |action| action.as_str());
            writeln!(
                out,
                "wanted: version {}, by {} ({action}) since {}{}",
                stored.version,
                printable(author),
                second(*since),
                message(because)
            )?;
        }
        _ => writeln!(out, "wanted: nothing was ever deployed")?,
    }
    if let Some(file) = &status.file {
        writeln!(out, "the file {} rules: each replica has in force what its file holds", printable(file))?;
    }
    if *is_paused {
        writeln!(out, "paused: nothing is read until `sluicegate rules resume`")?;
    }
    match (status.counts(), status.since()) {
        ((0, _), _) => writeln!(out, "no replica is there")?,
        ((there, 0), _) => writeln!(out, "none of {there} replicas has it in force")?,
        ((there, in_force), since) => {
            let since = since.map(|since| format!(" since {}", second(since))).unwrap_or_default();
            writeln!(out, "{in_force} of {there} replicas have it in force{since}")?;
        }
    }
    table(&["REPLICA", "VERSION", "SINCE", "STATE"], status.replicas.iter().map(|it| row(status, it)), out)
}

fn row(status: &Status, replica: &Replica) -> Vec<String> {
    let standing: &str = status.standing(replica).into();
    let reason = replica.report.refused.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let paused = if replica.report.is_paused { ", paused" } else { "" };
    let silent = match standing {
        "silent" => format!(" for {:.0} s", replica.silent_s),
        _ => String::new(),
    };
    vec![
        replica.consumer.clone(),
        version_or_none(replica.report.version),
        second(replica.since),
        format!("{standing}{silent}{paused}{reason}"),
    ]
}

pub(super) fn versions(
    versions: &[StoredVersion],
    wanted: &Wanted,
    limit: u32,
    as_json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    if as_json {
        return versions.iter().try_for_each(|stored| line(&VersionView::new(stored), out));
    }
    let is_wanted = |stored: &StoredVersion| {
        wanted.version.as_ref().is_some_and(|wanted| wanted.version.digest == stored.version.digest)
    };
    let row = |stored: &StoredVersion| {
        vec![
            format!("{}{}", stored.version, if is_wanted(stored) { " *" } else { "" }),
            stored.version.number.unwrap_or_default().to_string(),
            second(stored.made_at),
            stored.version.component.to_string(),
            grouped(stored.bytes),
            stored.author.clone(),
            stored.source.clone(),
            stored.message.clone(),
        ]
    };
    let names = ["VERSION", "NUMBER", "MADE", "COMPONENT", "BYTES", "BY", "FROM", "MESSAGE"];
    if versions.is_empty() {
        return writeln!(out, "no versions: neither was one deployed, nor has a service run");
    }
    table(&names, versions.iter().map(row), out)?;
    if versions.iter().any(is_wanted) {
        writeln!(out, "* is wanted; `sluicegate rules status` shows what each replica has in force")?;
    }
    tell_more(versions.len(), limit, out)
}

/// Says that there may be more than was shown.
fn tell_more(shown: usize, limit: u32, out: &mut dyn Write) -> io::Result<()> {
    match u32::try_from(shown).is_ok_and(|shown| shown < limit) {
        true => Ok(()),
        false => writeln!(out, "the newest {limit}; if there are more, --limit shows them"),
    }
}

pub(super) fn version(stored: &StoredVersion, as_json: bool, out: &mut dyn Write) -> io::Result<()> {
    if as_json {
        return line(&VersionView::new(stored), out);
    }
    writeln!(out, "version    {}", stored.version.digest.to_hex())?;
    writeln!(out, "number     {}", stored.version.number.unwrap_or_default())?;
    writeln!(out, "component  {} ({} bytes)", stored.version.component.to_hex(), grouped(stored.bytes))?;
    writeln!(out, "made       {} by {}", second(stored.made_at), printable(&stored.author))?;
    writeln!(out, "from       {}", printable(&stored.source))?;
    writeln!(out, "message    {}", printable(&stored.message))?;
    let manifest = serde_json::to_string_pretty(&manifest(stored)).unwrap_or_default();
    manifest.lines().try_for_each(|line| writeln!(out, "{}", printable(line)))
}

pub(super) fn history(
    history: &[Deployment],
    limit: u32,
    as_json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    if as_json {
        return history.iter().try_for_each(|row| line(&DeploymentView::new(row), out));
    }
    let row = |row: &Deployment| {
        vec![
            row.id.to_string(),
            second(row.at),
            row.action.clone(),
            version_or_none(row.version),
            version_or_none(row.component),
            row.author.clone(),
            row.message.clone(),
        ]
    };
    let names = ["DEPLOYMENT", "AT", "ACTION", "VERSION", "COMPONENT", "BY", "MESSAGE"];
    if history.is_empty() {
        return writeln!(out, "nothing has happened: neither was a version deployed, nor has a service run");
    }
    table(&names, history.iter().map(row), out)?;
    tell_more(history.len(), limit, out)
}

fn version_or_none(version: Option<Digest>) -> String {
    version.map_or("-".to_owned(), |version| version.to_string())
}

fn message(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {}", printable(message)) }
}

fn line(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", printable_json(&serde_json::to_string(value)?))
}

/// Writes columns that are as wide as what is in them. What others have written is made safe to show.
fn table(names: &[&str], rows: impl Iterator<Item = Vec<String>>, out: &mut dyn Write) -> io::Result<()> {
    let safe = |row: Vec<String>| row.iter().map(|cell| printable(cell).into_owned()).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = rows.map(safe).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&names).chain(&rows).collect();
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    for row in all {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
