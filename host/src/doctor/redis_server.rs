//! Judges what Redis says of itself.

use super::clocks;
use super::finding::{Finding, Subject};
use super::version::{self, Version};
use crate::stream::RedisLook;

const SUBJECT: Subject = Subject::Redis;
/// Memory is short from here on, in percent of `maxmemory`.
const FULL_PERCENT: u64 = 90;

/// Judges the server. The tenants have a connection each, besides one that they share.
pub(super) fn judge(look: &RedisLook, tenants: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !look.info.is_empty() {
        findings.extend([
            server_version(look),
            eviction(look),
            role(look),
            cluster(look),
            clients(look, tenants),
        ]);
        findings.extend(known_defect(look));
        findings.extend(persistence(look));
        findings.extend(replicas(look));
        findings.extend(loading(look));
    }
    findings.extend(idle_connections(look));
    findings.extend(look.clock.map(|gap| clocks::judge("redis-clock", &SUBJECT, gap)));
    findings.extend(refused(look));
    findings
}

fn server_version(look: &RedisLook) -> Finding {
    const ID: &str = "redis-version";
    let found = name_and_version(look);
    match version::parse(info(look, "redis_version")) {
        Some(version) if version < (7, 0, 0) => Finding::error(
            ID,
            &SUBJECT,
            found,
            "7.0 or later, which tells the lag of a group",
            "install a later Redis or Valkey, and copy the data by replication",
        ),
        _ => Finding::ok(ID, &SUBJECT, found),
    }
}

/// Valkey says 7.2 where Redis' version is asked for.
fn name_and_version(look: &RedisLook) -> String {
    match look.info.get("valkey_version") {
        Some(version) => format!("Valkey {version}"),
        None => format!("Redis {}", info(look, "redis_version")),
    }
}

/// Tells of CVE-2025-49844: a script can run code in the server, and the service's user may run scripts.
fn known_defect(look: &RedisLook) -> Option<Finding> {
    const REDIS: [Version; 5] = [(7, 0, u32::MAX), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)];
    const VALKEY: [Version; 3] = [(7, 2, 11), (8, 0, 6), (8, 1, 4)];
    let (found, mended) = match look.info.get("valkey_version") {
        Some(version) => (version::parse(version)?, &VALKEY[..]),
        None => (version::parse(info(look, "redis_version"))?, &REDIS[..]),
    };
    let line = mended.iter().find(|line| (line.0, line.1) == (found.0, found.1))?;
    (found < *line).then(|| {
        let name = name_and_version(look);
        Finding::note(
            "redis-known-defect",
            &SUBJECT,
            format!("{name} as published lets whoever may run scripts take over the server (CVE-2025-49844)"),
            "a version that is mended, or a distributor's package that says so",
            "look for CVE-2025-49844 in the package's changelog, and update if it is not there",
        )
    })
}

fn eviction(look: &RedisLook) -> Finding {
    const ID: &str = "redis-eviction";
    const REMEDY: &str = "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf";
    let policy = info(look, "maxmemory_policy");
    let [most, used] = ["maxmemory", "used_memory"].map(|name| number(look, name));
    let found = format!("maxmemory-policy is {policy}, maxmemory is {}", info(look, "maxmemory"));
    if most == 0 || policy == "noeviction" {
        return match most > 0 && used.saturating_mul(100) / most >= FULL_PERCENT {
            true => Finding::warning(
                ID,
                &SUBJECT,
                format!(
                    "{used} of {most} bytes of maxmemory are used: soon Redis refuses XADD and new groups"
                ),
                format!("less than {FULL_PERCENT} percent"),
                "trim the streams (XADD … MAXLEN ~ N), or raise maxmemory",
            ),
            false => Finding::ok(ID, &SUBJECT, found),
        };
    }
    match policy.starts_with("volatile") {
        true => Finding::warning(
            ID,
            &SUBJECT,
            format!("{found}: a stream with a time to live can be evicted with what nobody has read yet"),
            "noeviction",
            REMEDY,
        ),
        false => Finding::error(
            ID,
            &SUBJECT,
            format!("{found}: where memory is short, Redis deletes whole streams with their groups"),
            "noeviction",
            REMEDY,
        ),
    }
}

fn persistence(look: &RedisLook) -> Vec<Finding> {
    const ID: &str = "redis-persistence";
    let mut findings = Vec::new();
    let has_log = info(look, "aof_enabled") == "1";
    let saves = look.config.get("save").map(String::as_str);
    let fsync = look.config.get("appendfsync").map(String::as_str);
    findings.push(match (has_log, saves, fsync) {
        (true, _, Some("no")) => Finding::warning(
            ID,
            &SUBJECT,
            "appendonly is on, and appendfsync is no: a crash of the machine loses what the kernel has not written",
            "everysec or always",
            "redis-cli CONFIG SET appendfsync everysec, and the same in redis.conf",
        ),
        (true, _, fsync) => Finding::ok(
            ID,
            &SUBJECT,
            format!("appendonly is on{}", fsync.map(|fsync| format!(", appendfsync is {fsync}")).unwrap_or_default()),
        ),
        (false, Some(""), _) => Finding::warning(
            ID,
            &SUBJECT,
            "appendonly is off, and nothing is saved: a restart loses all entries, read or not",
            "an append-only file",
            "redis-cli CONFIG SET appendonly yes, and the same in redis.conf",
        ),
        (false, saves, _) => Finding::warning(
            ID,
            &SUBJECT,
            format!(
                "appendonly is off{}: a crash loses the entries since the last snapshot, and brings back some that are \
                 acknowledged",
                saves.map(|saves| format!(", save is {saves:?}")).unwrap_or_default()
            ),
            "an append-only file",
            "redis-cli CONFIG SET appendonly yes, and the same in redis.conf",
        ),
    });
    let stops = look.config.get("stop-writes-on-bgsave-error").is_none_or(|stops| stops == "yes");
    let is_snapshot = info(look, "rdb_last_bgsave_status") == "err";
    if info(look, "aof_last_write_status") == "err" || is_snapshot {
        let what = if is_snapshot { "snapshot" } else { "write to the append-only file" };
        let refuses = !is_snapshot || stops;
        findings.push(Finding::error(
            "redis-disk",
            &SUBJECT,
            format!(
                "the last {what} failed{}",
                if refuses { ": Redis refuses to write until one succeeds" } else { "" }
            ),
            "a disk that can be written to",
            "look at Redis' log, make room, and run: redis-cli BGSAVE",
        ));
    }
    findings
}

fn role(look: &RedisLook) -> Finding {
    const ID: &str = "redis-role";
    match info(look, "role") {
        "slave" => Finding::error(
            ID,
            &SUBJECT,
            format!("a replica of {}:{}", info(look, "master_host"), info(look, "master_port")),
            "the primary: a replica takes no acknowledgements",
            "set REDIS_URL to the primary, or to a name that follows it",
        ),
        role => Finding::ok(ID, &SUBJECT, if role == "master" { "the primary" } else { role }),
    }
}

fn replicas(look: &RedisLook) -> Option<Finding> {
    const ID: &str = "redis-replicas";
    let replicas = number(look, "connected_slaves");
    let wanted: u64 = look.config.get("min-replicas-to-write")?.parse().ok()?;
    let good = look.info.get("min_slaves_good_slaves").and_then(|good| good.parse::<u64>().ok());
    if wanted > 0 && good.is_some_and(|good| good < wanted) {
        return Some(Finding::error(
            ID,
            &SUBJECT,
            format!("{} of {wanted} replicas that min-replicas-to-write asks for keep up", good.unwrap_or(0)),
            format!("{wanted}: with fewer Redis refuses to write"),
            "mend the replicas, or redis-cli CONFIG SET min-replicas-to-write 0",
        ));
    }
    match (replicas, wanted) {
        (0, _) => None,
        (replicas, 0) => Some(Finding::note(
            ID,
            &SUBJECT,
            format!(
                "{replicas} replicas, and min-replicas-to-write is 0: a primary that is cut off takes entries that a failover loses"
            ),
            "1 or more, where entries must survive a failover",
            "redis-cli CONFIG SET min-replicas-to-write 1, and the same in redis.conf",
        )),
        (replicas, wanted) => {
            Some(Finding::ok(ID, &SUBJECT, format!("{replicas} replicas, min-replicas-to-write is {wanted}")))
        }
    }
}

fn cluster(look: &RedisLook) -> Finding {
    const ID: &str = "redis-mode";
    match info(look, "redis_mode") {
        "sentinel" => Finding::error(
            ID,
            &SUBJECT,
            "a sentinel, which holds no streams",
            "the primary itself",
            "redis-cli -p 26379 SENTINEL GET-MASTER-ADDR-BY-NAME NAME gives its address for REDIS_URL",
        ),
        "cluster" => Finding::warning(
            ID,
            &SUBJECT,
            "a node of a cluster: this service follows no stream to another node",
            "a Redis without cluster mode, or all streams on this node",
            "redis-cli CLUSTER KEYSLOT STREAM, and CLUSTER SLOTS, tell where a stream is; or use a server of its own",
        ),
        mode => Finding::ok(ID, &SUBJECT, mode),
    }
}

fn clients(look: &RedisLook, tenants: usize) -> Finding {
    const ID: &str = "redis-clients";
    let [most, connected] = ["maxclients", "connected_clients"].map(|name| number(look, name));
    let wanted = u64::try_from(tenants).unwrap_or(u64::MAX).saturating_add(1);
    let found =
        format!("{connected} of {most} clients are connected; a replica of this service has {wanted}");
    match most > 0 && connected.saturating_add(wanted) > most {
        true => Finding::warning(
            ID,
            &SUBJECT,
            found,
            "room for one more replica",
            "redis-cli CONFIG SET maxclients 10000, and the same in redis.conf",
        ),
        false => Finding::ok(ID, &SUBJECT, found),
    }
}

fn loading(look: &RedisLook) -> Option<Finding> {
    (info(look, "loading") == "1").then(|| {
        Finding::warning(
            "redis-loading",
            &SUBJECT,
            "Redis is loading its data, and answers nothing else until then",
            "a server that has loaded its data",
            "wait, and look again",
        )
    })
}

fn idle_connections(look: &RedisLook) -> Vec<Finding> {
    let mut findings = Vec::new();
    let setting = |name: &str| look.config.get(name).and_then(|value| value.parse::<u64>().ok());
    if let Some(timeout @ 1..) = setting("timeout") {
        findings.push(Finding::note(
            "redis-timeout",
            &SUBJECT,
            format!("timeout is {timeout}: connections that are idle for so many seconds are closed, and made again"),
            "0: what is dead is found by keepalive",
            "redis-cli CONFIG SET timeout 0, and the same in redis.conf",
        ));
    }
    if setting("tcp-keepalive") == Some(0) {
        findings.push(Finding::note(
            "redis-keepalive",
            &SUBJECT,
            "tcp-keepalive is 0: Redis keeps the connections of clients that are gone without a word",
            "300",
            "redis-cli CONFIG SET tcp-keepalive 300, and the same in redis.conf",
        ));
    }
    findings
}

/// Tells which looks the user may not do, because what they would have found is missing here.
fn refused(look: &RedisLook) -> Option<Finding> {
    (!look.refused.is_empty()).then(|| {
        let rules: Vec<String> = look
            .refused
            .iter()
            .map(|command| format!("+{}", command.to_lowercase().replace(' ', "|")))
            .collect();
        Finding::note(
            "redis-not-told",
            &SUBJECT,
            format!("this user may not run {}: what they tell was not looked at", look.refused.join(", ")),
            "the right to look, for this command only; the service does without",
            format!("ACL SETUSER {} {}", look.user.as_deref().unwrap_or("USER"), rules.join(" ")),
        )
    })
}

fn info<'a>(look: &'a RedisLook, name: &str) -> &'a str {
    look.info.get(name).map_or("unknown", String::as_str)
}

fn number(look: &RedisLook, name: &str) -> u64 {
    look.info.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    /// A server on which all is well, but for these.
    fn look(info: &[(&str, &str)], config: &[(&str, &str)]) -> RedisLook {
        let map = |pairs: &[&[(&str, &str)]]| {
            let pairs = pairs.iter().flat_map(|pairs| pairs.iter());
            pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let well = [
            ("redis_version", "8.2.2"),
            ("redis_mode", "standalone"),
            ("role", "master"),
            ("maxmemory", "0"),
            ("maxmemory_policy", "noeviction"),
            ("used_memory", "100"),
            ("aof_enabled", "1"),
            ("aof_last_write_status", "ok"),
            ("rdb_last_bgsave_status", "ok"),
            ("connected_slaves", "0"),
            ("maxclients", "10000"),
            ("connected_clients", "3"),
            ("loading", "0"),
        ];
        let set = [
            ("appendfsync", "everysec"),
            ("save", ""),
            ("min-replicas-to-write", "0"),
            ("stop-writes-on-bgsave-error", "yes"),
            ("timeout", "0"),
            ("tcp-keepalive", "300"),
        ];
        RedisLook { info: map(&[&well, info]), config: map(&[&set, config]), ..RedisLook::default() }
    }

    /// What is not well.
    fn found(info: &[(&str, &str)], config: &[(&str, &str)]) -> Vec<(&'static str, Level)> {
        let findings = judge(&look(info, config), 1);
        let told = findings.iter().filter(|finding| finding.level != Level::Ok);
        told.map(|finding| (finding.id, finding.level)).collect()
    }

    #[test]
    fn each_setting_has_its_finding() {
        type Pairs = &'static [(&'static str, &'static str)];
        type Told = &'static [(&'static str, Level)];
        let cases: [(Pairs, Pairs, Told); 24] = [
            (&[], &[], &[]),
            (&[("redis_version", "6.2.14")], &[], &[("redis-version", Level::Error)]),
            (&[("redis_version", "7.0.15")], &[], &[("redis-known-defect", Level::Note)]),
            (&[("redis_version", "8.0.2")], &[], &[("redis-known-defect", Level::Note)]),
            (&[("redis_version", "8.0.4")], &[], &[]),
            (&[("redis_version", "9.0.0")], &[], &[]),
            (&[("redis_version", "7.2.4"), ("valkey_version", "8.1.4")], &[], &[]),
            (
                &[("redis_version", "7.2.4"), ("valkey_version", "8.1.3")],
                &[],
                &[("redis-known-defect", Level::Note)],
            ),
            (&[("maxmemory_policy", "allkeys-lru")], &[], &[]),
            (
                &[("maxmemory_policy", "allkeys-lru"), ("maxmemory", "1000")],
                &[],
                &[("redis-eviction", Level::Error)],
            ),
            (
                &[("maxmemory_policy", "volatile-ttl"), ("maxmemory", "1000")],
                &[],
                &[("redis-eviction", Level::Warning)],
            ),
            (&[("maxmemory", "1000")], &[], &[]),
            (&[("maxmemory", "110")], &[], &[("redis-eviction", Level::Warning)]),
            (&[("aof_enabled", "0")], &[], &[("redis-persistence", Level::Warning)]),
            (&[("aof_enabled", "0")], &[("save", "3600 1")], &[("redis-persistence", Level::Warning)]),
            (&[], &[("appendfsync", "no")], &[("redis-persistence", Level::Warning)]),
            (&[("aof_last_write_status", "err")], &[], &[("redis-disk", Level::Error)]),
            (&[("rdb_last_bgsave_status", "err")], &[], &[("redis-disk", Level::Error)]),
            (&[("role", "slave")], &[], &[("redis-role", Level::Error)]),
            (&[("connected_slaves", "2")], &[], &[("redis-replicas", Level::Note)]),
            (
                &[("connected_slaves", "1"), ("min_slaves_good_slaves", "1")],
                &[("min-replicas-to-write", "2")],
                &[("redis-replicas", Level::Error)],
            ),
            (&[("redis_mode", "cluster")], &[], &[("redis-mode", Level::Warning)]),
            (&[("maxclients", "4")], &[], &[("redis-clients", Level::Warning)]),
            (
                &[("loading", "1")],
                &[("timeout", "30"), ("tcp-keepalive", "0")],
                &[
                    ("redis-loading", Level::Warning),
                    ("redis-timeout", Level::Note),
                    ("redis-keepalive", Level::Note),
                ],
            ),
        ];
        for (info, config, wanted) in cases {
            assert_eq!(found(info, config), wanted, "{info:?} {config:?}");
        }
    }

    #[test]
    fn a_server_that_tells_nothing_is_not_blamed() {
        let look = RedisLook { refused: vec!["INFO", "CONFIG GET"], ..RedisLook::default() };
        let findings = judge(&look, 1);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].remedy.ends_with("+info +config|get"), "{}", findings[0].remedy);
    }
}
