//! Tests that no tenant keeps what all of them share, the connections to the database above all.

use std::fs;
use std::time::Duration;

use sluicegate_tests::{Tenants, block_on, guests, until, until_running, until_within, verdict};

/// Locks a table in a transaction, until the connection is dropped.
fn locked(tenants: &Tenants, table: &str, mode: &str) -> sqlx::PgConnection {
    let mut connection = tenants.scene.database.connect();
    let sql = format!("BEGIN; LOCK TABLE {table} IN {mode} MODE");
    block_on(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection)).unwrap();
    connection
}

/// The tenant's table is there, without being a hypertable, and somebody works on it.
#[test]
fn a_tenant_whose_table_is_locked_holds_up_nobody() {
    let tenants = Tenants::new(&[("locked", ""), ("quick_1", ""), ("quick_2", "")]);
    let file = tenants.scene.folder().join("sluicegate.toml");
    let tables = fs::read_to_string(&file).unwrap();
    // There are so few connections that the one tenant could have them all.
    fs::write(&file, format!("postgres_connections = 1\ncommits_in_flight = 1\n{tables}")).unwrap();
    tenants.scene.database.execute(
        "CREATE TABLE events_locked (
             time TIMESTAMPTZ NOT NULL, event_id UUID NOT NULL, event_type TEXT NOT NULL, user_id TEXT NOT NULL,
             properties JSONB, PRIMARY KEY (event_id, time))",
    );
    let mut lock = locked(&tenants, "events_locked", "ACCESS EXCLUSIVE");
    let service = tenants.launch().start_unready();
    for name in ["quick_1", "quick_2"] {
        until_running(&service, name);
        tenants.add(name, 10);
        tenants.until_rows(&format!("events_{name}"), 10);
    }
    assert!(!service.log().contains("waiting for postgres"), "{}", service.log());

    tenants.add("locked", 10);
    block_on(sqlx::raw_sql("ROLLBACK").execute(&mut lock)).unwrap();
    tenants.until_rows("events_locked", 10);
    tenants.stream("locked").until_drained();
    service.stop();
    assert_eq!(tenants.rows("timescaledb_information.hypertables"), 4, "and that of the migration");
}

/// Such guests hold a connection all the time that their statements take.
#[test]
fn guests_that_hold_transactions_leave_connections_to_the_others() {
    let slow = format!(
        "guest = {:?}\n[tenants.NAME.grants]\nstream = true\npublish = {{ purchases = 10 }}\n\
         statements = [\"user_plan\", \"touch_user\"]\nmetrics = true",
        guests::built("guest_enrich.wasm").display().to_string()
    );
    let slow = ["s0", "s1", "s2", "s3"].map(|name| (name, slow.replace("NAME", name)));
    let settings: Vec<(&str, &str)> =
        slow.iter().map(|(name, settings)| (*name, settings.as_str())).chain([("quick", "")]).collect();
    let tenants = Tenants::new(&settings);
    let file = tenants.scene.folder().join("sluicegate.toml");
    let statements = "[statements.user_plan]\nsql = \"SELECT pg_sleep(15)::text || $1\"\nparameters = [\"text\"]\ntimeout = \"10s\"\n\
         [statements.touch_user]\nsql = \"SELECT $1, $2\"\nparameters = [\"text\", \"timestamp\"]\n";
    let tables = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("postgres_connections = 4\ncommits_in_flight = 2\n{statements}{tables}"))
        .unwrap();

    let service = tenants.start(&["s0", "s1", "s2", "s3", "quick"]);
    for (name, _) in &slow {
        tenants.add(name, 1);
    }
    let asleep = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep(15)%' AND state = 'active'";
    until("two guests to hold a connection", || match tenants.scene.database.try_value::<i64>(asleep)? {
        2 => Ok(()),
        found => Err(format!("{found} do")),
    });
    tenants.add("quick", 10);
    tenants.until_rows("events_quick", 10);
    assert_eq!(tenants.scene.database.value::<i64>(asleep), 2, "meanwhile they slept");
    service.crash();
}

/// However many batches the tenant may have in flight, it gets only its share of connections.
#[test]
fn a_tenant_whose_table_is_locked_leaves_connections_to_the_others() {
    let tenants = Tenants::new(&[("stuck", "commits_in_flight = 20\nbatch_size = 1"), ("quick", "")]);
    let service = tenants.start(&["stuck", "quick"]);
    let _lock = locked(&tenants, "events_stuck", "SHARE");
    tenants.add("stuck", 100);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("its share of the connections to wait", || {
        match tenants.scene.database.try_value::<i64>(waiting)? {
            10 => Ok(()),
            found => Err(format!("{found} wait")),
        }
    });
    tenants.add("quick", 10);
    until_within(Duration::from_secs(10), "what the other tenant stores", || {
        match tenants.scene.database.try_value::<i64>("SELECT count(*) FROM events_quick")? {
            10 => Ok(()),
            found => Err(format!("{found} rows")),
        }
    });
    service.crash();
}

/// Heavy batches are written over one connection, for one tenant at a time.
#[test]
fn a_locked_table_holds_up_no_other_heavy_batch() {
    let guest = format!("guest = {:?}", guests::scripted().display().to_string());
    let tenants = Tenants::new(&[("stuck", &guest), ("quick", &guest)]);
    let service = tenants.start(&["stuck", "quick"]);
    let _lock = locked(&tenants, "events_stuck", "SHARE");
    let expand = |name: &str| tenants.stream(name).add(&verdict("expand", &[("count", "1000")]));
    let row = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    expand("stuck");
    until("it to wait", || match tenants.scene.database.try_value::<i64>(row)? {
        1 => Ok(()),
        found => Err(format!("{found} wait")),
    });
    expand("quick");
    until_within(Duration::from_secs(10), "what the other tenant stores", || {
        match tenants.scene.database.try_value::<i64>("SELECT count(*) FROM events_quick")? {
            1_000 => Ok(()),
            found => Err(format!("{found} rows")),
        }
    });
    service.crash();
}
