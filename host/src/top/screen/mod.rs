//! Draws the picture.

use chrono::{DateTime, Utc};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Wrap};
use unicode_width::UnicodeWidthStr as _;

use super::picture::{Failing, ReplicaStatus, RulesStatus, ServicePicture};
use super::row::{Level, Row};
use super::table::{Table, count, none, rate, time, unknown};
use super::view::{Page, View};
use crate::text::{cut_to_columns, printable};

const HELP: [&str; 12] = [
    "RATE/S    entries that ended per second, in the last half minute, on that replica",
    "LAG       entries of the stream that the group was not given yet",
    "PENDING   entries that some replica was given, and has not acknowledged",
    "OLDEST    age of the oldest entry that is not acknowledged",
    "P50, P99  from an entry's XADD to its commit, in the last half minute",
    "LETTERS   dead letters that no replay has settled; 10000 are as many or more",
    "RULES     the version of the rules that judges",
    "",
    "? is what Redis does not tell, - what there is not.",
    "",
    "up down j k page home end   choose a tenant     Enter   all about it, and back",
    "s   sort by the next column                     q, Ctrl-C   quit; Esc   back, or quit",
];

/// How things look. Without colours, words tell the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) has_colours: bool,
}

impl Look {
    fn of(self, level: Level) -> Style {
        match level {
            Level::Trouble => self.coloured(Color::Red).add_modifier(Modifier::BOLD),
            Level::Warning => self.coloured(Color::Yellow),
            Level::Note | Level::Well => Style::new(),
        }
    }

    fn coloured(self, colour: Color) -> Style {
        if self.has_colours { Style::new().fg(colour) } else { Style::new() }
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, view: &View, now: DateTime<Utc>, look: Look) {
    let rows = view.rows();
    let width = usize::from(frame.area().width);
    let head = head(view, &rows, now, look, width);
    let head_height = u16::try_from(head.len()).unwrap_or(u16::MAX).saturating_add(1);
    let heights = [Constraint::Length(head_height), Constraint::Fill(1), Constraint::Length(1)];
    let [above, middle, below] = Layout::vertical(heights).areas(frame.area());
    frame.render_widget(Paragraph::new(head), above);
    let page = match (view.page, rows.get(view.chosen_among(&rows))) {
        (Page::Help, _) => Paragraph::new(HELP.map(Line::from).to_vec()),
        (Page::Details, Some(row)) => Paragraph::new(details(view, row, look)).wrap(Wrap { trim: false }),
        (Page::Details | Page::List, _) => {
            Paragraph::new(list(view, &rows, width, usize::from(middle.height), look))
        }
    };
    frame.render_widget(page, middle);
    frame.render_widget(Line::styled(keys(view), Style::new().add_modifier(Modifier::DIM)), below);
}

/// Tells which services are asked, how many tenants are in trouble, and which service does not answer.
fn head(view: &View, rows: &[Row<'_>], now: DateTime<Utc>, look: Look, width: usize) -> Vec<Line<'static>> {
    let services = match view.services.as_slice() {
        [only] => only.name.clone(),
        several => format!("{} services", several.len()),
    };
    let of = |level| rows.iter().filter(|row| row.level == level).count();
    let (troubles, warnings) = (of(Level::Trouble), of(Level::Warning));
    let mut summary = format!("{services}: {}", several(rows.len(), "tenant"));
    if troubles > 0 {
        summary += &format!(", {troubles} in trouble");
    }
    if warnings > 0 {
        summary += &format!(", {}", several(warnings, "warning"));
    }
    let clock = now.format("%H:%M:%S UTC").to_string();
    let gap = width.saturating_sub(summary.width() + clock.width());
    let worst = rows.iter().map(|row| row.level).min().unwrap_or(Level::Well);
    let first = if gap > 1 { format!("{summary}{}{clock}", " ".repeat(gap)) } else { summary };
    let mut lines = vec![Line::styled(cut_to_columns(&first, width).into_owned(), look.of(worst))];
    for service in &view.services {
        let Some(failing) = &service.failing else { continue };
        lines
            .extend(silence(service, failing, now).map(|line| {
                Line::styled(cut_to_columns(&line, width).into_owned(), look.of(Level::Trouble))
            }));
    }
    lines
}

/// Tells since when a service has not answered, and why.
fn silence(service: &ServicePicture, failing: &Failing, now: DateTime<Utc>) -> [String; 2] {
    let seconds = (now - failing.since).as_seconds_f64().max(0.0);
    let old = if service.tenants().is_empty() { "" } else { "; what it told then is below" };
    let since = failing.since.format("%H:%M:%S UTC");
    [
        format!("{}: no answer since {since} ({}){old}", service.name, time(seconds)),
        format!("  {}", failing.why),
    ]
}

/// Returns the title and so many lines less one, among them that of the chosen tenant.
fn list(view: &View, rows: &[Row<'_>], width: usize, height: usize, look: Look) -> Vec<Line<'static>> {
    if rows.is_empty() {
        let is_silent = view.services.iter().any(|service| service.failing.is_some());
        let have_told = view.services.iter().all(ServicePicture::has_told);
        return vec![Line::from(match (is_silent, have_told) {
            (true, _) => "", // why is told above
            (false, true) => "no tenants",
            (false, false) => "asking…",
        })];
    }
    let table = Table::new(rows, view.services.len() > 1, Some(width));
    let room = height.saturating_sub(1);
    let chosen = view.chosen_among(rows);
    let skipped = (chosen + 1).saturating_sub(room);
    let title = Line::styled(table.title(), Style::new().add_modifier(Modifier::BOLD));
    let shown = table.lines().zip(rows).enumerate().skip(skipped).map(|(at, (line, row))| {
        let mut style = look.of(row.level);
        if row.is_old {
            style = style.add_modifier(Modifier::DIM);
        }
        if at == chosen {
            style = style.add_modifier(Modifier::REVERSED);
        }
        let rest = " ".repeat(width.saturating_sub(line.width()));
        Line::styled(format!("{line}{rest}"), style)
    });
    std::iter::once(title).chain(shown.take(room)).collect()
}

/// Tells all that is known of a tenant.
fn details(view: &View, row: &Row<'_>, look: Look) -> Vec<Line<'static>> {
    let tenant = row.tenant;
    let counts = |counts: &std::collections::BTreeMap<String, u64>| {
        let counts: Vec<String> =
            counts.iter().map(|(name, number)| format!("{name} {}", count(*number))).collect();
        if counts.is_empty() { none() } else { counts.join(", ") }
    };
    let known = |number: Option<u64>| number.map_or_else(unknown, count);
    let time_or = |seconds: Option<f64>, other: fn() -> String| seconds.map_or_else(other, time);
    let is_well = row.wrong.is_empty();
    let facts = [
        (
            "tenant",
            format!(
                "{} at {}, {} for {}",
                tenant.name,
                row.service,
                tenant.state,
                time(tenant.uptime_seconds)
            ),
        ),
        ("wrong", if is_well { none() } else { row.wrong.clone() }),
        ("stream", format!("{}, group {}, table {}", tenant.stream, tenant.group, tenant.table)),
        ("ended", counts(&tenant.entries)),
        (
            "rates",
            format!("{}/s in the last half minute, {}/s in all", rate(tenant.recent_rate), rate(tenant.rate)),
        ),
        (
            "left",
            format!(
                "lag {}, pending {}, oldest {}, in flight here {}, stream length {}",
                known(tenant.lag),
                known(tenant.pending),
                time_or(tenant.oldest_age_seconds, unknown),
                count(tenant.in_flight),
                known(tenant.stream_length)
            ),
        ),
        (
            "latency",
            format!(
                "p50 {}, p99 {}",
                time_or(tenant.commit_latency_p50_seconds, none),
                time_or(tenant.commit_latency_p99_seconds, none)
            ),
        ),
        ("letters", format!("{} open", known(tenant.open_dead_letters))),
        ("lost", count(tenant.lost)),
        ("breaches", counts(&tenant.breaches)),
        ("restarts", format!("{} of the guest's process", count(tenant.worker_restarts))),
        ("rules", tenant.rules_version.clone().unwrap_or_else(none)),
    ];
    let fact = |(name, what): &(&str, String)| format!("{name:<10}{}", printable(what));
    let mut lines: Vec<Line<'static>> = facts.iter().map(|it| Line::from(fact(it))).collect();
    if let Some(wrong) = lines.get_mut(1) {
        wrong.style = look.of(row.level);
    }
    match view.rules_of(&row.key) {
        None => lines.push(Line::from("replicas  asking…")),
        Some(Err(why)) => lines.push(Line::from(format!("replicas  {why}"))),
        Some(Ok(rules)) => lines.extend(replicas(rules, look)),
    }
    lines
}

/// Tells what is wanted of the rules, and what each replica has in force.
fn replicas(rules: &RulesStatus, look: Look) -> Vec<Line<'static>> {
    let wanted = match (&rules.version, &rules.since) {
        (Some(version), Some(since)) => format!("{} by {} since {since}", digits(version), rules.by),
        _ => "nothing was ever deployed".to_owned(),
    };
    let mut lines = vec![Line::from(format!("wanted    {}", printable(&wanted)))];
    for replica in &rules.replicas {
        let ReplicaStatus { replica: name, version, state, refused, paused, seen_s_ago } = replica;
        let version = version.as_deref().map_or_else(none, |version| digits(version).to_owned());
        let paused = if *paused { ", paused" } else { "" };
        let refused = refused.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let line = format!("{name}: {version} {state}{paused}, seen {} ago{refused}", time(*seen_s_ago));
        let level = if state == "in force" { Level::Well } else { Level::Warning };
        lines.push(Line::styled(format!("replica   {}", printable(&line)), look.of(level)));
    }
    lines
}

/// Returns the first digits of a version, as the list has them.
fn digits(version: &str) -> &str {
    version.get(..12).unwrap_or(version)
}

fn keys(view: &View) -> String {
    match view.page {
        Page::List => format!("q quit  s sort: {}  Enter details  ? help", view.sort.as_str()),
        Page::Details => "q quit  Esc back  up down another tenant  ? help".to_owned(),
        Page::Help => "q quit  Esc back".to_owned(),
    }
}

fn several(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
