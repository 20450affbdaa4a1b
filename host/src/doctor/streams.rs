//! Judges each tenant's stream and group, and what the user may do with them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::finding::{Finding, Subject};
use crate::config::{Config, Tenant};
use crate::stream::{ConsumerLook, Denied, GroupLook, RedisLook, StreamFigures, StreamLook, Why};
use sluicegate_verdicts::EntryId;

/// A consumer with nothing pending that has asked for nothing for so long is gone.
const LEFT_OVER: Duration = Duration::from_secs(3_600);
/// Pending entries are taken over after `CLAIM_MIN_IDLE`. After so many times as long nobody does that.
const MISSED_CLAIMS: u32 = 5;
/// Entries are about to be trimmed unread when so many percent of the stream are unread.
const UNREAD_PERCENT: u64 = 80;
/// An entry that was tried so often is read alone: its rules may crash on it.
const SUSPECT_DELIVERIES: u64 = 4;

/// Judges a tenant's stream.
pub(super) fn judge(look: &StreamLook, config: &Config, tenant: &Tenant, user: Option<&str>) -> Vec<Finding> {
    let subject = Subject::Tenant(tenant.name.clone());
    if let Some(why) = &look.unreadable {
        return vec![unreadable(look, &subject, why)];
    }
    let mut findings = vec![rights(look, &subject, user)];
    findings.extend(publishing(look, &subject, user));
    if look.is_hidden {
        return findings;
    }
    let Some(figures) = &look.figures else {
        let found = format!("there is no stream {:?} yet", look.stream);
        findings.push(Finding::note(
            "stream-missing",
            &subject,
            found,
            "",
            "nothing: it is made at the start",
        ));
        return findings;
    };
    let Some(group) = &look.group else {
        findings.push(Finding::note(
            "group-missing",
            &subject,
            format!(
                "the stream {:?} with {} entries has no group {:?} yet",
                look.stream, figures.length, look.group_name
            ),
            "",
            "nothing: it is made at the start, and reads the stream from its beginning",
        ));
        return findings;
    };
    findings.push(progress(look, figures, group, &subject));
    findings.extend(losses(figures, group, &subject));
    findings.extend(pending(look, group, tenant, &subject));
    findings.extend(consumers(look, group, config, tenant, &subject));
    findings
}

fn unreadable(look: &StreamLook, subject: &Subject, why: &str) -> Finding {
    const ID: &str = "stream-readable";
    let stream = &look.stream;
    match why.starts_with("WRONGTYPE") {
        true => Finding::error(
            ID,
            subject,
            format!("the key {stream:?} is no stream"),
            "a stream, or no key of this name",
            format!("redis-cli TYPE {stream}; then give STREAM_NAME another name, or rename the key"),
        ),
        false => Finding::error(
            ID,
            subject,
            format!("the stream {stream:?} is not on this node of the cluster: {why}"),
            "a stream on the node that REDIS_URL names",
            "set REDIS_URL to that node, or use a Redis without cluster mode",
        ),
    }
}

fn rights(look: &StreamLook, subject: &Subject, user: Option<&str>) -> Finding {
    const ID: &str = "redis-rights";
    let stream = &look.stream;
    let of = |why: Why| {
        let denied = look.denied.iter().filter(move |denied: &&Denied| denied.why == why);
        denied.map(|denied| denied.rule).collect::<Vec<_>>()
    };
    let [commands, keys, unknown] = [Why::Command, Why::Key, Why::Unknown].map(of);
    if !unknown.is_empty() {
        return Finding::error(
            ID,
            subject,
            format!("the server does not know {}", unknown.join(", ")),
            "commands under their own names",
            "take rename-command out of redis.conf, and deny commands by ACL instead",
        );
    }
    let user = user.unwrap_or("USER");
    let rules: Vec<String> = commands.iter().map(|command| format!("+{command}")).collect();
    let key = (!keys.is_empty()).then(|| format!("~{stream}"));
    match (rules.is_empty(), key) {
        (true, None) => Finding::ok(ID, subject, format!("the user may do all that is needed on {stream:?}")),
        (true, Some(key)) => Finding::error(
            ID,
            subject,
            format!("the user {user} may not use the key {stream:?} (in {})", keys.join(", ")),
            "the key of the tenant's stream, to read and to write",
            format!("ACL SETUSER {user} {key}"),
        ),
        (false, key) => Finding::error(
            ID,
            subject,
            format!("the user {user} may not run {} on {stream:?}", commands.join(", ")),
            "all commands that docs/operations.md lists",
            format!(
                "ACL SETUSER {user} {}{}",
                key.map(|key| format!("{key} ")).unwrap_or_default(),
                rules.join(" ")
            ),
        ),
    }
}

fn publishing(look: &StreamLook, subject: &Subject, user: Option<&str>) -> Vec<Finding> {
    let told = |(stream, why): &(String, String)| {
        let remedy = match why.starts_with("WRONGTYPE") {
            true => format!("redis-cli TYPE {stream}; then grant another stream, or rename the key"),
            false => format!("ACL SETUSER {} ~{stream} +xadd", user.unwrap_or("USER")),
        };
        Finding::error(
            "redis-publishing",
            subject,
            format!("the rules may publish to {stream:?}, and Redis refuses it: {why}"),
            "XADD on each stream in [grants] publish",
            remedy,
        )
    };
    look.unpublishable.iter().map(told).collect()
}

fn progress(look: &StreamLook, figures: &StreamFigures, group: &GroupLook, subject: &Subject) -> Finding {
    const ID: &str = "group-progress";
    let (length, pending, name) = (figures.length, group.pending, &look.group_name);
    match group.lag {
        Some(lag) => Finding::ok(
            ID,
            subject,
            format!("group {name:?}: {lag} unread and {pending} pending of {length} entries"),
        ),
        None => Finding::note(
            ID,
            subject,
            format!(
                "group {name:?}: {pending} pending of {length} entries; Redis does not know how many are unread"
            ),
            "a lag; it is unknown after XDEL, or after XGROUP SETID without ENTRIESREAD",
            "nothing: Redis knows again when the group has read to the end",
        ),
    }
}

/// Returns how many entries were trimmed before the group had read them, as far as Redis can tell. `look.lua` counts
/// them in the same way.
fn lost(figures: &StreamFigures, group: &GroupLook) -> u64 {
    let gone = figures.added.saturating_sub(figures.length);
    let is_whole = figures.first.is_none_or(|first| first > figures.max_deleted);
    let begins_later = figures.first.is_none_or(|first| first > group.last_delivered);
    match group.read {
        Some(read) if group.last_delivered != figures.last_generated && begins_later && is_whole => {
            gone.saturating_sub(read)
        }
        _ => 0,
    }
}

fn losses(figures: &StreamFigures, group: &GroupLook, subject: &Subject) -> Option<Finding> {
    let lost = lost(figures, group);
    if lost > 0 {
        return Some(Finding::error(
            "entries-lost",
            subject,
            format!("{lost} entries were trimmed before the group read them"),
            "a stream that is long enough for the time that the service may be away",
            "give XADD a higher MAXLEN: MAXLEN ~ 1000000",
        ));
    }
    let is_trimmed = figures.added > figures.length;
    let unread = group.lag.unwrap_or(0);
    (is_trimmed && figures.length > 0 && unread.saturating_mul(100) / figures.length >= UNREAD_PERCENT).then(
        || {
            Finding::warning(
                "entries-nearly-lost",
                subject,
                format!("the stream is trimmed, and {unread} of its {} entries are unread", figures.length),
                format!("less than {UNREAD_PERCENT} percent: what is trimmed unread is lost"),
                "give XADD a higher MAXLEN, and see that the service runs and keeps up",
            )
        },
    )
}

fn pending(look: &StreamLook, group: &GroupLook, tenant: &Tenant, subject: &Subject) -> Option<Finding> {
    const ID: &str = "pending-entries";
    let oldest = group.oldest.as_ref()?;
    let age = EntryId::parse(oldest.id.as_bytes()).map(|id| age(id.milliseconds)).unwrap_or_default();
    let told = format!(
        "the oldest of {} pending entries is {}, of {} ago; the consumer {:?} was given it last {} ago, and it was tried {} times",
        group.pending,
        oldest.id,
        span(age),
        oldest.consumer,
        span(oldest.idle),
        oldest.deliveries
    );
    let (stream, name) = (&look.stream, &look.group_name);
    if oldest.idle > tenant.claim_min_idle.0 * MISSED_CLAIMS {
        return Some(Finding::warning(
            ID,
            subject,
            told,
            format!("entries that are taken over after CLAIM_MIN_IDLE ({})", tenant.claim_min_idle),
            format!(
                "start a replica, which takes them over; redis-cli XPENDING {stream} {name} shows who has how many"
            ),
        ));
    }
    (oldest.deliveries >= SUSPECT_DELIVERIES).then(|| {
        Finding::note(
            ID,
            subject,
            told,
            "entries on which nothing dies",
            format!(
                "redis-cli XRANGE {stream} {0} {0} shows it; after MAX_DELIVERIES it becomes a dead letter",
                oldest.id
            ),
        )
    })
}

fn consumers(
    look: &StreamLook,
    group: &GroupLook,
    config: &Config,
    tenant: &Tenant,
    subject: &Subject,
) -> Vec<Finding> {
    const ID: &str = "consumers";
    let (stream, name) = (&look.stream, &look.group_name);
    let mut findings = Vec::new();
    let is_left_over = |consumer: &&ConsumerLook| consumer.pending == 0 && consumer.idle > LEFT_OVER;
    let left: Vec<&ConsumerLook> = group.consumers.iter().filter(is_left_over).collect();
    if let Some(first) = left.first() {
        findings.push(Finding::note(
            "consumers-left-over",
            subject,
            format!(
                "{} consumers have nothing pending and asked for nothing for an hour or more: {}",
                left.len(),
                names(&left)
            ),
            "only consumers that are at work; a clean stop removes its own",
            format!("redis-cli XGROUP DELCONSUMER {stream} {name} {}", first.name),
        ));
    }
    let stuck_after = tenant.claim_min_idle.0 * MISSED_CLAIMS;
    let is_stuck = |consumer: &&ConsumerLook| consumer.pending > 0 && consumer.idle > stuck_after;
    let stuck: Vec<&ConsumerLook> = group.consumers.iter().filter(is_stuck).collect();
    if !stuck.is_empty() {
        findings.push(Finding::warning(
            "consumers-gone",
            subject,
            format!(
                "{} consumers have asked for nothing for {} or more, and have entries pending: {}",
                stuck.len(),
                span(stuck_after),
                names(&stuck)
            ),
            format!("entries that others take over after CLAIM_MIN_IDLE ({})", tenant.claim_min_idle),
            "start a replica, which takes them over; never XGROUP DELCONSUMER, which would lose them",
        ));
    }
    let at_work: Vec<&ConsumerLook> =
        group.consumers.iter().filter(|consumer| consumer.idle <= stuck_after.max(LEFT_OVER)).collect();
    let is_default = config.consumer_name == Config::default().consumer_name;
    let has_others = at_work.iter().any(|consumer| consumer.name != config.consumer_name);
    if is_default && has_others {
        findings.push(Finding::note(
            "consumer-name",
            subject,
            format!(
                "CONSUMER_NAME is the default, {:?}, and the group has others: {}",
                config.consumer_name,
                names(&at_work)
            ),
            "a name for each replica, the same after a restart: two of one name take each other's entries",
            "CONSUMER_NAME=consumer-2, or the name of the pod or the host",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            ID,
            subject,
            format!("{} consumers in group {name:?}", group.consumers.len()),
        ));
    }
    findings
}

/// Names the first few.
fn names(consumers: &[&ConsumerLook]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = consumers
        .iter()
        .take(SHOWN)
        .map(|consumer| {
            format!("{} ({} pending, idle for {})", consumer.name, consumer.pending, span(consumer.idle))
        })
        .collect();
    let more = consumers.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn age(milliseconds: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(milliseconds))
}

/// Writes a time in whole seconds.
fn span(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

/// Judges what the look as a whole came to.
pub(super) fn broken(look: &RedisLook) -> Option<Finding> {
    look.broken.as_ref().map(|why| {
        Finding::error(
            "redis-answers",
            &Subject::Redis,
            format!("the look was cut off: {why}"),
            "an answer to each question",
            "see whether the server and the network to it are overloaded, and look again",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn id(milliseconds: u64) -> EntryId {
        EntryId { milliseconds, sequence: 0 }
    }

    /// A stream of ten entries, all of them read.
    fn look() -> StreamLook {
        StreamLook {
            stream: "s".to_owned(),
            group_name: "g".to_owned(),
            figures: Some(StreamFigures {
                length: 10,
                added: 10,
                first: Some(id(1)),
                last_generated: id(10),
                max_deleted: id(0),
            }),
            group: Some(GroupLook {
                last_delivered: id(10),
                read: Some(10),
                lag: Some(0),
                ..GroupLook::default()
            }),
            ..StreamLook::default()
        }
    }

    fn told(change: impl FnOnce(&mut StreamLook)) -> Vec<(&'static str, Level)> {
        let mut look = look();
        change(&mut look);
        let findings = judge(&look, &Config::default(), &Tenant::default(), Some("few"));
        let told = findings.iter().filter(|finding| finding.level != Level::Ok);
        told.map(|finding| (finding.id, finding.level)).collect()
    }

    fn group(change: impl FnOnce(&mut GroupLook)) -> impl FnOnce(&mut StreamLook) {
        |look| change(look.group.as_mut().expect("a group"))
    }

    fn consumer(name: &str, pending: u64, idle_s: u64) -> ConsumerLook {
        ConsumerLook { name: name.to_owned(), pending, idle: Duration::from_secs(idle_s) }
    }

    #[test]
    fn a_group_that_keeps_up_is_well() {
        assert_eq!(told(|_| ()), []);
        assert_eq!(told(|look| look.figures = None), [("stream-missing", Level::Note)]);
        assert_eq!(told(|look| look.group = None), [("group-missing", Level::Note)]);
        assert_eq!(
            told(|look| look.unreadable = Some("WRONGTYPE Operation".to_owned())),
            [("stream-readable", Level::Error)]
        );
        assert_eq!(told(group(|group| group.lag = None)), [("group-progress", Level::Note)]);
    }

    #[test]
    fn rights_that_lack_become_a_rule_to_copy() {
        let denied = |rules: &[(&'static str, Why)]| {
            let denied = rules.iter().map(|(rule, why)| Denied { rule, why: *why }).collect();
            rights(&StreamLook { denied, ..look() }, &Subject::Redis, Some("few")).remedy
        };
        assert_eq!(denied(&[]), "");
        assert_eq!(
            denied(&[("xclaim", Why::Command), ("xgroup|create", Why::Command)]),
            "ACL SETUSER few +xclaim +xgroup|create"
        );
        assert_eq!(denied(&[("xlen", Why::Key)]), "ACL SETUSER few ~s");
        assert_eq!(denied(&[("xlen", Why::Key), ("eval", Why::Command)]), "ACL SETUSER few ~s +eval");
        assert!(denied(&[("eval", Why::Unknown)]).contains("rename-command"));
    }

    #[test]
    fn losses_are_counted_as_the_service_counts_them() {
        let lost = |first, read, last, deleted| {
            let figures = StreamFigures {
                length: 4,
                added: 10,
                first: Some(id(first)),
                last_generated: id(10),
                max_deleted: id(deleted),
            };
            lost(&figures, &GroupLook { read, last_delivered: id(last), ..GroupLook::default() })
        };
        assert_eq!(lost(7, Some(2), 2, 0), 4, "3 to 6 are gone");
        assert_eq!(lost(7, Some(6), 6, 0), 0);
        assert_eq!(lost(7, Some(8), 8, 0), 0, "it reads on within the stream");
        assert_eq!(lost(7, None, 2, 0), 0, "nobody knows");
        assert_eq!(lost(7, Some(2), 2, 8), 0, "something was deleted from the middle");
        assert_eq!(lost(7, Some(2), 10, 0), 0, "it was set to the end");
        assert_eq!(
            told(|look| {
                look.figures =
                    Some(StreamFigures { added: 20, first: Some(id(1)), ..look.figures.unwrap_or_default() });
                look.group = Some(GroupLook {
                    lag: Some(9),
                    last_delivered: id(1),
                    read: Some(11),
                    ..GroupLook::default()
                });
            }),
            [("entries-nearly-lost", Level::Warning)]
        );
    }

    #[test]
    fn consumers_that_are_gone_are_told() {
        let consumers = |consumers: Vec<ConsumerLook>| told(group(|group| group.consumers = consumers));
        assert_eq!(consumers(vec![consumer("consumer-1", 5, 1)]), []);
        assert_eq!(consumers(vec![consumer("old", 0, 7_200)]), [("consumers-left-over", Level::Note)]);
        assert_eq!(consumers(vec![consumer("old", 3, 7_200)]), [("consumers-gone", Level::Warning)]);
        assert_eq!(consumers(vec![consumer("other", 0, 1)]), [("consumer-name", Level::Note)]);
        let oldest = |idle_s, deliveries| {
            told(group(|group| {
                let (id, consumer) = ("1-0".to_owned(), "old".to_owned());
                group.oldest = Some(crate::stream::OldestPending {
                    id,
                    consumer,
                    idle: Duration::from_secs(idle_s),
                    deliveries,
                });
            }))
        };
        assert_eq!(oldest(60, 1), []);
        assert_eq!(oldest(600, 1), [("pending-entries", Level::Warning)]);
        assert_eq!(oldest(60, 5), [("pending-entries", Level::Note)]);
    }
}
