//! Findings as a list for people, and as JSON.

use std::io::{self, Write};

use super::finding::{Finding, Level};

/// Writes what needs a hand first, with what to do, then what is well, in a line each.
pub(super) fn text(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    for Finding { id, level, subject, found, wanted, remedy } in findings {
        let level = level.as_str();
        if wanted.is_empty() && remedy.is_empty() {
            writeln!(out, "{level:<7}  {id} ({subject}): {found}")?;
            continue;
        }
        writeln!(out, "{level:<7}  {id} ({subject})")?;
        for (name, text) in [("found", found), ("wanted", wanted), ("do", remedy)] {
            if !text.is_empty() {
                writeln!(out, "         {name:<6}  {text}")?;
            }
        }
    }
    writeln!(out, "\n{}", summary(findings))
}

/// Writes one JSON object a line.
pub(super) fn json(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    findings.iter().try_for_each(|finding| {
        // Text and words always become JSON.
        let line = serde_json::to_string(finding).map_err(io::Error::other)?;
        writeln!(out, "{line}")
    })
}

fn summary(findings: &[Finding]) -> String {
    let count = |level: Level| {
        let count = findings.iter().filter(|finding| finding.level == level).count();
        match (level, count) {
            (Level::Ok, count) => format!("{count} ok"),
            (level, 1) => format!("1 {}", level.as_str()),
            (level, count) => format!("{count} {}s", level.as_str()),
        }
    };
    Level::ALL.map(count).join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Subject;
    use super::*;

    #[test]
    fn what_is_to_be_done_stands_below_what_was_found() {
        let findings = [
            Finding::error("redis-role", &Subject::Redis, "a replica", "a master", "use another address"),
            Finding::ok("redis-version", &Subject::Redis, "8.0.2"),
        ];
        let mut out = Vec::new();
        text(&findings, &mut out).expect("written");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "error    redis-role (redis)\n         found   a replica\n         wanted  a master\n         do      use another \
             address\nok       redis-version (redis): 8.0.2\n\n1 error, 0 warnings, 0 notes, 1 ok\n"
        );
        let mut out = Vec::new();
        json(&findings, &mut out).expect("written");
        let lines = String::from_utf8(out).expect("text");
        let first: serde_json::Value =
            serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
        assert_eq!((&first["level"], &first["subject"]), (&"error".into(), &"redis".into()));
    }

    #[test]
    fn text_of_others_commands_no_terminal() {
        let finding = Finding::ok("redis-group", &Subject::Redis, "a\x1b[2Jb");
        assert_eq!(finding.found, "a\\u{1b}[2Jb");
    }
}
