use super::super::finding::Level;
use super::*;
use crate::store::TableLook;

fn server() -> PostgresServer {
    let settings = [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("synchronous_standby_names", ""),
        ("default_transaction_read_only", "off"),
        ("max_connections", "100"),
        ("superuser_reserved_connections", "3"),
        ("reserved_connections", "0"),
        ("idle_session_timeout", "0"),
        ("session_replication_role", "origin"),
        ("log_statement", "none"),
        ("log_min_duration_statement", "-1"),
        ("log_parameter_max_length", "-1"),
    ];
    PostgresServer {
        version: "17.6".to_owned(),
        version_num: 170_006,
        user: "app".to_owned(),
        database: "app".to_owned(),
        role_connections: -1,
        database_connections: -1,
        encoding: "UTF8".to_owned(),
        schema: Some("public".to_owned()),
        may_use_schema: true,
        may_create_tables: true,
        may_create_extensions: true,
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        connections: 5,
        session_age_s: Some(0.1),
        ..PostgresServer::default()
    }
}

/// A database that a service has run on, with this changed.
fn told(
    change: impl FnOnce(&mut PostgresServer, &mut PostgresLook, &mut Config),
) -> Vec<(&'static str, Level)> {
    let (mut server, mut config) = (server(), Config::default());
    let mut look = PostgresLook {
        extension: Some(Extension {
            installed: Some("2.19.3".to_owned()),
            available: Some("2.19.3".to_owned()),
            license: Some("apache".to_owned()),
            is_loaded: true,
        }),
        migrations: Some(Migrations::default()),
        holders: Some(Holders::default()),
        shares_sessions: Some(false),
        own_tables: vec![("decided", Some(TableLook::default()))],
        ..PostgresLook::default()
    };
    change(&mut server, &mut look, &mut config);
    look.server = Some(server);
    let findings = judge(&look, &config);
    let told = findings.iter().filter(|finding| finding.level != Level::Ok);
    told.map(|finding| (finding.id, finding.level)).collect()
}

fn set(name: &'static str, value: &'static str) -> Vec<(&'static str, Level)> {
    told(|server, _, _| drop(server.settings.insert(name.to_owned(), value.to_owned())))
}

#[test]
fn a_server_as_it_should_be_is_well() {
    assert_eq!(told(|_, _, _| ()), []);
}

#[test]
fn each_setting_has_its_finding() {
    for (name, value, wanted) in [
        ("fsync", "off", ("postgres-durability", Level::Error)),
        ("full_page_writes", "off", ("postgres-durability", Level::Error)),
        ("synchronous_commit", "off", ("postgres-synchronous-commit", Level::Warning)),
        ("default_transaction_read_only", "on", ("postgres-role", Level::Error)),
        ("max_connections", "12", ("postgres-connections", Level::Warning)),
        ("max_connections", "18", ("postgres-connections", Level::Warning)),
        ("idle_session_timeout", "60000", ("postgres-idle-sessions", Level::Note)),
        ("session_replication_role", "replica", ("postgres-triggers-off", Level::Error)),
        ("log_statement", "all", ("postgres-logs-events", Level::Note)),
    ] {
        assert_eq!(set(name, value), [wanted], "{name} = {value}");
    }
    assert_eq!(set("synchronous_commit", "local"), [], "no standby is waited for anyway");
    assert_eq!(set("max_connections", "20"), []);
}

#[test]
fn each_state_of_the_server_has_its_finding() {
    assert_eq!(told(|server, _, _| server.version_num = 130_020), [("postgres-version", Level::Error)]);
    assert_eq!(told(|server, _, _| server.is_standby = true), [("postgres-role", Level::Error)]);
    assert_eq!(told(|server, _, _| server.role_connections = 4), [("postgres-connections", Level::Warning)]);
    assert_eq!(told(|server, _, _| server.encoding = "LATIN1".into()), [("postgres-encoding", Level::Error)]);
    assert_eq!(told(|server, _, _| server.schema = None), [("postgres-schema", Level::Error)]);
    assert_eq!(told(|server, _, _| server.may_use_schema = false), [("postgres-schema", Level::Error)]);
    assert_eq!(told(|server, _, _| server.may_create_tables = false), [], "they are there");
    assert_eq!(
        told(|server, look, _| {
            server.may_create_tables = false;
            look.own_tables.push(("commits", None));
        }),
        [("postgres-schema", Level::Error)]
    );
    assert_eq!(
        told(|server, _, _| server.transaction_age = 1_500_000_000),
        [("postgres-wraparound", Level::Error)]
    );
    assert_eq!(told(|server, _, _| server.session_age_s = Some(90.0)), [("postgres-pooler", Level::Note)]);
    assert_eq!(told(|_, look, _| look.shares_sessions = Some(true)), [("postgres-pooler", Level::Error)]);
    assert_eq!(
        told(|server, look, _| {
            server.settings.insert("synchronous_commit".to_owned(), "off".to_owned());
            look.shares_sessions = Some(true);
        }),
        [("postgres-synchronous-commit", Level::Error), ("postgres-pooler", Level::Error)]
    );
    assert_eq!(
        told(|_, look, _| look.failed.push(("a table", "denied".to_owned()))),
        [("postgres-not-told", Level::Warning)]
    );
}

#[test]
fn the_extension_is_judged_by_version_and_leave() {
    type Case = (Option<&'static str>, Option<&'static str>, bool, bool, Option<Level>);
    let cases: [Case; 8] = [
        (Some("2.19.3"), Some("2.19.3"), true, false, None),
        (Some("2.18.1"), Some("2.18.1"), true, false, None),
        (Some("2.18.0"), Some("2.18.0"), true, false, Some(Level::Warning)),
        (Some("2.19.3"), Some("2.20.0"), true, false, Some(Level::Warning)),
        (None, Some("2.19.3"), true, false, Some(Level::Note)),
        (None, Some("2.19.3"), false, false, Some(Level::Error)),
        (None, None, true, false, Some(Level::Error)),
        (None, None, true, true, Some(Level::Note)),
    ];
    for (installed, available, may_make, plain_is_allowed, wanted) in cases {
        let found = told(|server, look, config| {
            server.may_create_extensions = may_make;
            config.allow_plain_table = plain_is_allowed;
            look.extension = Some(Extension {
                installed: installed.map(str::to_owned),
                available: available.map(str::to_owned),
                license: None,
                is_loaded: true,
            });
        });
        let wanted: Vec<_> = wanted.map(|level| ("timescaledb", level)).into_iter().collect();
        assert_eq!(found, wanted, "{installed:?} of {available:?}, {may_make}, {plain_is_allowed}");
    }
}

#[test]
fn migrations_and_what_holds_them_up() {
    let migrations = |migrations: Migrations| told(|_, look, _| look.migrations = Some(migrations));
    let some = Migrations::default;
    assert_eq!(migrations(Migrations { pending: vec![9], ..some() }), [("migrations", Level::Warning)]);
    assert_eq!(migrations(Migrations { later: Some(99), ..some() }), [("migrations", Level::Note)]);
    assert_eq!(migrations(Migrations { foreign: vec![1], ..some() }), [("migrations", Level::Error)]);
    assert_eq!(migrations(Migrations { failed: vec![3], ..some() }), [("migrations", Level::Error)]);
    assert_eq!(
        told(|_, look, _| {
            look.migrations = Some(Migrations { pending: vec![1, 2], ..some() });
            look.own_tables = vec![("decided", None)];
        }),
        [("migrations", Level::Note)]
    );
    let holders = |holders: Holders| told(|_, look, _| look.holders = Some(holders));
    let old = "postgres-old-transactions";
    assert_eq!(holders(Holders { transaction: Some((7, 3_000.0)), ..Holders::default() }), []);
    assert_eq!(
        holders(Holders { transaction: Some((7, 4_000.0)), ..Holders::default() }),
        [(old, Level::Warning)]
    );
    assert_eq!(
        holders(Holders { prepared: Some(("g".into(), 4_000.0)), ..Holders::default() }),
        [(old, Level::Warning)]
    );
    assert_eq!(
        holders(Holders { slots: vec![("s".into(), 2 << 30)], ..Holders::default() }),
        [("postgres-replication-slots", Level::Warning)]
    );
}
