//! Finds which of the service's commands Redis denies to the user, without any effect.
//!
//! ACL DRYRUN tells it where the user may run that. Otherwise each command is sent in a form that cannot do anything:
//! for a group that nobody has, or with an ID that does not read. Redis checks the rights before it reads either.

use redis::{Cmd, RedisError, Value};
use uuid::Uuid;

use super::inspect::{Answer, Asker, text};

/// A command that is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// As it stands in a rule of the ACL: `xgroup|create`.
    pub rule: &'static str,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The user may not run it.
    Command,
    /// The user may not use the stream in it.
    Key,
    /// The server does not know it: it was renamed or removed, perhaps.
    Unknown,
}

/// Stands for the stream, and for a group that nobody has.
const STREAM: &str = "<stream>";
const NO_GROUP: &str = "<group>";

/// The commands that the service and its scripts need, as rules of the ACL, and in a form without effect. EXEC stands
/// before MULTI, which is tried only where EXEC can end it.
const COMMANDS: [(&str, &[&str]); 16] = [
    ("eval", &["EVAL", "return 0", "1", STREAM]),
    ("xack", &["XACK", STREAM, NO_GROUP, "0-1"]),
    ("xclaim", &["XCLAIM", STREAM, NO_GROUP, "nobody", "0", "0-1"]),
    ("xgroup|create", &["XGROUP", "CREATE", STREAM, NO_GROUP, "no-id"]),
    ("xgroup|delconsumer", &["XGROUP", "DELCONSUMER", STREAM, NO_GROUP, "nobody"]),
    ("xgroup|setid", &["XGROUP", "SETID", STREAM, NO_GROUP, "0"]),
    ("xinfo|stream", &["XINFO", "STREAM", STREAM]),
    ("xinfo|groups", &["XINFO", "GROUPS", STREAM]),
    ("xinfo|consumers", &["XINFO", "CONSUMERS", STREAM, NO_GROUP]),
    ("xlen", &["XLEN", STREAM]),
    ("xpending", &["XPENDING", STREAM, NO_GROUP]),
    ("xrange", &["XRANGE", STREAM, "0-1", "0-1"]),
    ("xread", &["XREAD", "COUNT", "1", "STREAMS", STREAM, "$"]),
    ("xreadgroup", &["XREADGROUP", "GROUP", NO_GROUP, "nobody", "COUNT", "1", "STREAMS", STREAM, ">"]),
    ("exec", &["EXEC"]),
    ("multi", &["MULTI"]),
];

/// Returns the commands that the user may not run on this stream.
pub(super) async fn denied(
    asker: &mut Asker,
    user: Option<&str>,
    stream: &str,
) -> Result<Vec<Denied>, RedisError> {
    let group = format!("sluicegate-doctor-{}", Uuid::new_v4());
    let mut denied: Vec<Denied> = Vec::new();
    for (rule, words) in COMMANDS {
        let words: Vec<&str> = words
            .iter()
            .map(|word| match *word {
                STREAM => stream,
                NO_GROUP => &group,
                word => word,
            })
            .collect();
        let may_open = rule != "multi" || denied.iter().all(|denied| denied.rule != "exec");
        if let Some((why, _)) = is_denied(asker, user, &words, may_open).await? {
            denied.push(Denied { rule, why });
        }
    }
    Ok(denied)
}

/// Returns why nothing can be added to this stream, or `None` if something can.
pub(super) async fn unpublishable(
    asker: &mut Asker,
    user: Option<&str>,
    stream: &str,
) -> Result<Option<String>, RedisError> {
    let words = ["XADD", stream, "NOMKSTREAM", "MAXLEN", "~", "1000000", "no-id", "a", "b"];
    if let Some((_, said)) = is_denied(asker, user, &words, true).await? {
        return Ok(Some(said));
    }
    Ok(match asker.ask(redis::cmd("XLEN").arg(stream)).await? {
        Answer::Refused(why) if why.starts_with("WRONGTYPE") => Some(why),
        _ => None,
    })
}

/// Returns why this command is denied, and Redis' words, or `None` if it is not. Where it `may_send`, the command itself
/// is sent if nothing else tells.
async fn is_denied(
    asker: &mut Asker,
    user: Option<&str>,
    words: &[&str],
    may_send: bool,
) -> Result<Option<(Why, String)>, RedisError> {
    if let Some(user) = user
        && let Answer::Reply(reply) = asker.ask(redis::cmd("ACL").arg("DRYRUN").arg(user).arg(words)).await?
    {
        match &reply {
            Value::Okay => return Ok(None),
            // A server with other words than these is asked directly.
            reply => {
                let said = text(reply).unwrap_or_default();
                if let Some(why) = why(&format!("NOPERM {said}")) {
                    return Ok(Some((why, said)));
                }
            }
        }
    }
    if !may_send {
        return Ok(None);
    }
    let answer = asker.ask(&command(words)).await?;
    if words == ["MULTI"] && matches!(answer, Answer::Reply(_)) {
        asker.ask(&redis::cmd("EXEC")).await?;
    }
    Ok(match answer {
        Answer::Refused(said) => why(&said).map(|why| (why, said)),
        Answer::Reply(_) => None,
    })
}

fn command(words: &[&str]) -> Cmd {
    let mut words = words.iter();
    let mut command = redis::cmd(words.next().unwrap_or(&"PING"));
    command.arg(words.as_slice());
    command
}

/// Returns what a refusal is about, if it is about rights.
fn why(said: &str) -> Option<Why> {
    let lower = said.to_lowercase();
    match lower.strip_prefix("noperm ") {
        Some(said) if said.contains("permission") && said.contains("key") && !said.contains("to run") => {
            Some(Why::Key)
        }
        Some(said) if said.contains("permission") => Some(Why::Command),
        None if lower.contains("unknown command") || lower.contains("unknown subcommand") => {
            Some(Why::Unknown)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        for (said, wanted) in [
            ("NOPERM User few has no permissions to run the 'xclaim' command", Some(Why::Command)),
            ("NOPERM this user has no permissions to run the 'xgroup|create' command", Some(Why::Command)),
            ("NOPERM No permissions to access a key", Some(Why::Key)),
            ("NOPERM User few has no permissions to access the 'events' key", Some(Why::Key)),
            (
                "NOPERM this user has no permissions to access one of the keys used as arguments",
                Some(Why::Key),
            ),
            ("ERR unknown command 'EVAL', with args beginning with: ", Some(Why::Unknown)),
            ("NOGROUP No such key 'events' or consumer group", None),
            ("ERR Invalid stream ID specified as stream command argument", None),
            ("READONLY You can't write against a read only replica.", None),
            ("NOPERM ", None),
        ] {
            assert_eq!(why(said), wanted, "{said}");
        }
    }

    /// INFO and PING are on the page because something goes better with them; nothing stops without.
    #[test]
    fn what_the_page_lists_is_tried() {
        let page = include_str!("../../../docs/operations.md");
        let (_, list) = page.split_once("on streams that are granted:\n").expect("the list");
        let (list, _) = list.split_once("\n\n").expect("its end");
        let listed: BTreeSet<String> =
            list.split('`').skip(1).step_by(2).map(|right| right.to_lowercase().replace(' ', "|")).collect();
        let tried: BTreeSet<String> = COMMANDS
            .iter()
            .map(|(rule, _)| if rule.starts_with("xinfo|") { "xinfo" } else { rule }.to_owned())
            .chain(["info", "ping"].map(str::to_owned))
            .collect();
        assert_eq!(listed, tried);
    }
}
