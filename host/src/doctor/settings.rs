//! Judges the settings: those that contradict each other, and the files and folders that they name.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};

use super::finding::{Finding, Subject};
use crate::config::{Config, Tenant, Time, UrlSource};
use crate::{judge, sandbox, service};

const SUBJECT: Subject = Subject::Settings;
/// The files that a replica has open for itself, and for each tenant: connections, a worker's channel, its output and
/// its code, the metrics file.
const OPEN_FILES: u64 = 64;
const OPEN_FILES_PER_TENANT: u64 = 8;

/// Judges all settings. Touches files only to see whether they could be used.
pub(super) fn judge(config: &Config) -> Vec<Finding> {
    let mut findings = misspelt(config);
    findings.extend(shared_tables(config));
    findings.extend(postgres_connections(config));
    findings.extend(guest_cache(config));
    findings.extend(open_files(config));
    for source in [config.redis_url(), config.postgres_url()] {
        findings.extend(url_file(&source));
    }
    for tenant in &config.tenants {
        findings.extend(of_tenant(tenant));
        findings.extend(metrics_file(config, tenant));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("settings", &SUBJECT, "they read, and agree with each other"));
    }
    findings
}

fn misspelt(config: &Config) -> Vec<Finding> {
    let told = |misspelt: &crate::config::Misspelt| {
        Finding::warning(
            "settings-misspelt",
            &SUBJECT,
            format!("{} in {} is no setting, and has no effect", misspelt.found, misspelt.place),
            format!("{}, if that is meant", misspelt.meant),
            format!("rename it to {}", misspelt.meant),
        )
    };
    config.misspelt.iter().map(told).collect()
}

fn shared_tables(config: &Config) -> Vec<Finding> {
    let tables = service::tables_in_common(&config.tenants);
    let told = tables.into_iter().map(|(table, names)| {
        let names = names.iter().map(|name| name.as_str()).collect::<Vec<_>>();
        Finding::warning(
            "settings-shared-table",
            &SUBJECT,
            format!(
                "the tenants {} share the table {table}: each can keep an event from the others by storing its event_id and time first",
                names.join(", ")
            ),
            "a table for each tenant",
            format!("[tenants.{0}] events_table = \"events_{0}\"", names.last().copied().unwrap_or("NAME")),
        )
    });
    told.collect()
}

fn postgres_connections(config: &Config) -> Option<Finding> {
    let (set, used) = (config.postgres_connections, config.connections_for_writing());
    (set < used).then(|| {
        Finding::note(
            "settings-connections",
            &SUBJECT,
            format!("POSTGRES_CONNECTIONS is {set}, and COMMITS_IN_FLIGHT needs {used}, which are taken"),
            "as many as the largest COMMITS_IN_FLIGHT, or more",
            format!("POSTGRES_CONNECTIONS={used}"),
        )
    })
}

fn guest_cache(config: &Config) -> Option<Finding> {
    let folder = config.guest_cache.as_deref()?;
    let error = sandbox::check_cache(folder).err()?;
    Some(Finding::warning(
        "guest-cache",
        &SUBJECT,
        format!("{}: {error}; components are compiled at each start", folder.display()),
        "a folder of this user with the mode 700",
        format!("chown $(id -u) {0}; chmod 700 {0}", folder.display()),
    ))
}

fn open_files(config: &Config) -> Option<Finding> {
    let tenants = u64::try_from(config.tenants.len()).unwrap_or(u64::MAX);
    let connections = u64::try_from(config.connections_for_writing()).unwrap_or(u64::MAX);
    let wanted =
        tenants.saturating_mul(OPEN_FILES_PER_TENANT).saturating_add(connections).saturating_add(OPEN_FILES);
    let limit = getrlimit(Resource::Nofile).current.filter(|limit| *limit < wanted)?;
    Some(Finding::warning(
        "open-files",
        &SUBJECT,
        format!("this process may open {limit} files; {tenants} tenants may need {wanted}"),
        format!("{wanted} or more"),
        format!("ulimit -n {0}, or LimitNOFILE={0} in the unit of systemd", wanted.next_power_of_two()),
    ))
}

/// A file with a URL holds a password.
fn url_file(source: &UrlSource) -> Option<Finding> {
    let file = source.file()?;
    let mode = fs::metadata(file).ok()?.mode() & 0o777;
    (mode & 0o004 != 0).then(|| {
        Finding::note(
            "url-file-mode",
            &SUBJECT,
            format!(
                "{} has the mode {mode:o}: every user of this host can read the password in it",
                file.display()
            ),
            "a file that only the service can read",
            format!("chmod 600 {}", file.display()),
        )
    })
}

fn of_tenant(tenant: &Tenant) -> Vec<Finding> {
    let subject = Subject::Tenant(tenant.name.clone());
    let mut findings = Vec::new();
    let longest = longest_batch(tenant);
    if longest > tenant.claim_min_idle.0 {
        findings.push(Finding::warning(
            "settings-claim-min-idle",
            &subject,
            format!(
                "CLAIM_MIN_IDLE is {}, and GUEST_TIME_LIMIT ({}) lets a batch of {} take {}: another replica may take it over meanwhile, \
                 and fence this one",
                tenant.claim_min_idle,
                tenant.guest_time_limit,
                tenant.batch_size,
                shown(longest)
            ),
            "longer than any batch takes",
            format!("CLAIM_MIN_IDLE={}, or a shorter GUEST_TIME_LIMIT", shown(longest + longest / 4)),
        ));
    }
    if tenant.row_retry() < tenant.row_retry.0 {
        findings.push(Finding::note(
            "settings-row-retry",
            &subject,
            format!(
                "ROW_RETRY is {}, and at most half of CLAIM_MIN_IDLE ({}) counts",
                tenant.row_retry, tenant.claim_min_idle
            ),
            "half of CLAIM_MIN_IDLE, or less",
            format!("ROW_RETRY={}", shown(tenant.row_retry())),
        ));
    }
    if let Some(retention) = tenant.dead_letter_retention.filter(|retention| *retention < tenant.decided_kept)
    {
        findings.push(Finding::note(
            "settings-dead-letter-retention",
            &subject,
            format!(
                "DEAD_LETTER_RETENTION is {retention}, and DECIDED_KEPT {}: an entry that comes again is acknowledged for a letter that is \
                 deleted",
                tenant.decided_kept
            ),
            "a DEAD_LETTER_RETENTION that is longer than DECIDED_KEPT",
            format!("DEAD_LETTER_RETENTION={}", tenant.decided_kept),
        ));
    }
    findings
}

/// Returns how long a batch may take whose entries all keep the rules busy, in processor time.
fn longest_batch(tenant: &Tenant) -> Duration {
    let entries = u32::try_from(tenant.batch_size).unwrap_or(u32::MAX);
    tenant.guest_time_limit.0 * judge::max_limits(entries)
}

/// Rounds up to whole seconds, as a setting has it.
fn shown(time: Duration) -> String {
    Time::secs(time.as_secs() + u64::from(time.subsec_nanos() > 0)).to_string()
}

fn metrics_file(config: &Config, tenant: &Tenant) -> Option<Finding> {
    let file = config.metrics_csv_of(&tenant.name);
    let error = check_writable(&file).err()?;
    let folder = file.parent().unwrap_or(Path::new(".")).display().to_string();
    Some(Finding::warning(
        "metrics-csv",
        &Subject::Tenant(tenant.name.clone()),
        format!("{} cannot be written to: {error}", file.display()),
        "a file that this user may write to, or a folder in which it may make one",
        format!("METRICS_CSV=/var/lib/sluicegate/metrics.csv, or chown $(id -u) {folder}"),
    ))
}

/// Checks whether a file could be appended to, or made with its folders, and changes nothing.
fn check_writable(file: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        outcome => return outcome.map(drop),
    }
    let file = std::path::absolute(file)?;
    let folder = file.ancestors().skip(1).find(|folder| folder.exists());
    let folder = folder.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    if !folder.is_dir() {
        return Err(io::Error::other(format!("{} is no folder", folder.display())));
    }
    access(folder, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| io::Error::other(format!("{}: {error}", folder.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::finding::Level;
    use super::*;

    fn told(change: impl FnOnce(&mut Tenant)) -> Vec<(&'static str, Level)> {
        let mut tenant = Tenant::default();
        change(&mut tenant);
        of_tenant(&tenant).iter().map(|finding| (finding.id, finding.level)).collect()
    }

    #[test]
    fn settings_that_contradict_each_other_are_told() {
        assert_eq!(told(|_| ()), []);
        assert_eq!(
            told(|tenant| tenant.guest_time_limit = Time::secs(2)),
            [("settings-claim-min-idle", Level::Warning)]
        );
        assert_eq!(
            told(|tenant| {
                tenant.guest_time_limit = Time::secs(2);
                tenant.claim_min_idle = Time::secs(100);
            }),
            []
        );
        assert_eq!(told(|tenant| tenant.batch_size = 10_000), [("settings-claim-min-idle", Level::Warning)]);
        assert_eq!(told(|tenant| tenant.row_retry = Time::secs(31)), [("settings-row-retry", Level::Note)]);
        assert_eq!(
            told(|tenant| {
                tenant.dead_letter_retention = Some(Time::days(1));
                tenant.decided_kept = Time::days(2);
            }),
            [("settings-dead-letter-retention", Level::Note)]
        );
    }

    #[test]
    fn the_remedy_for_a_slow_batch_is_enough() {
        let mut tenant = Tenant { guest_time_limit: Time::millis(1_550), ..Tenant::default() };
        let remedy = of_tenant(&tenant).remove(0).remedy;
        let value = remedy.strip_prefix("CLAIM_MIN_IDLE=").and_then(|rest| rest.split(',').next());
        tenant.claim_min_idle = value.expect("a setting").parse().expect("a time");
        assert_eq!(of_tenant(&tenant), []);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_found_without_making_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a/b/metrics.csv");
        assert!(check_writable(&file).is_ok());
        assert!(!folder.path().join("a").exists());
        fs::write(folder.path().join("a"), "no folder").expect("written");
        assert!(check_writable(&file).is_err());
    }

    #[test]
    fn a_file_with_a_password_should_be_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("url");
        fs::write(&file, "redis://h").expect("written");
        let config = Config { redis_url_file: Some(file.clone()), ..Config::default() };
        for (mode, is_told) in [(0o644, true), (0o640, false), (0o600, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(url_file(&config.redis_url()).is_some(), is_told, "{mode:o}");
        }
    }
}
