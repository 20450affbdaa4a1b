//! The statements of the looks. Each returns one JSON value.

/// How long the server may take for one look, and for a lock.
pub(super) const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '2s'; \
                     SET LOCAL idle_in_transaction_session_timeout = '10s'";

pub(super) const SERVER: &str = "SELECT json_build_object(
    'version', current_setting('server_version'),
    'version_num', current_setting('server_version_num')::int,
    'clock_us', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    'is_standby', pg_is_in_recovery(),
    'user', current_user,
    'database', current_database(),
    'role_connections', rolconnlimit,
    'database_connections', datconnlimit,
    'encoding', pg_encoding_to_char(encoding),
    'schema', current_schema(),
    'may_use_schema', coalesce(has_schema_privilege(current_schema(), 'USAGE'), false),
    'may_create_tables', coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
    'may_create_extensions', has_database_privilege(current_database(), 'CREATE'),
    'settings', (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name = ANY ($1)),
    'connections', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
    'session_age_s', (SELECT extract(epoch FROM clock_timestamp() - backend_start)::float8
                      FROM pg_stat_activity WHERE pid = pg_backend_pid()),
    'transaction_age', age(datfrozenxid))
 FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()";

/// The settings that matter.
pub(super) const SETTINGS: [&str; 16] = [
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "synchronous_standby_names",
    "default_transaction_read_only",
    "max_connections",
    "superuser_reserved_connections",
    "reserved_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "idle_session_timeout",
    "session_replication_role",
    "log_statement",
    "log_min_duration_statement",
    "log_parameter_max_length",
    "timescaledb.max_tuples_decompressed_per_dml_transaction",
];

pub(super) const EXTENSION: &str = "SELECT json_build_object(
    'installed', (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'),
    'available', (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'),
    'license', current_setting('timescaledb.license', true),
    'is_loaded', EXISTS (SELECT FROM pg_settings WHERE name LIKE 'timescaledb.%'))";

pub(super) const MIGRATED: &str =
    "SELECT coalesce(json_agg(json_build_array(version, success, encode(checksum, 'hex'))), '[]')
 FROM _sqlx_migrations";

pub(super) const TABLE: &str = "SELECT json_build_object(
    'kind', relkind::text,
    'is_unlogged', relpersistence = 'u',
    'schema', nspname,
    'denied', (SELECT coalesce(json_agg(wanted), '[]') FROM unnest($2) AS wanted
               WHERE NOT has_table_privilege(pg_class.oid, wanted)),
    'has_row_security', row_security_active(pg_class.oid),
    'triggers', (SELECT coalesce(json_agg(tgname), '[]') FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
                 WHERE tgrelid = pg_class.oid AND NOT tgisinternal AND tgenabled <> 'D'
                       AND proname NOT IN ('insert_blocker', 'sluicegate_refuse_fenced')),
    'dropping_triggers', (SELECT coalesce(json_agg(tgname), '[]') FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
                 WHERE tgrelid = pg_class.oid AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 7 = 7
                       AND proname <> 'insert_blocker'),
    'required_columns', (SELECT coalesce(json_agg(attname), '[]') FROM pg_attribute
                 WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped AND attnotnull AND NOT atthasdef
                       AND attidentity = '' AND attname <> ALL ($3)),
    'unique_indexes', (SELECT coalesce(json_agg(indexrelid::regclass::text), '[]') FROM pg_index
                 WHERE indrelid = pg_class.oid AND indisunique AND NOT indisprimary))
 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = to_regclass($1)";

pub(super) const HYPERTABLE: &str = "SELECT json_build_object(
    'chunks', num_chunks, 'is_compressed', compression_enabled,
    'chunk_interval_s', (SELECT extract(epoch FROM time_interval)::float8 FROM timescaledb_information.dimensions d
                         WHERE d.hypertable_schema = h.hypertable_schema AND d.hypertable_name = h.hypertable_name
                               AND dimension_number = 1),
    'retention_s', (SELECT min(extract(epoch FROM (config->>'drop_after')::interval))::float8
                    FROM timescaledb_information.jobs j WHERE proc_name = 'policy_retention'
                         AND j.hypertable_schema = h.hypertable_schema AND j.hypertable_name = h.hypertable_name),
    'failed_jobs', (SELECT coalesce(json_agg(format('%s %s', proc_name, j.job_id)), '[]')
                    FROM timescaledb_information.jobs j JOIN timescaledb_information.job_stats s ON s.job_id = j.job_id
                    WHERE last_run_status = 'Failed'
                         AND j.hypertable_schema = h.hypertable_schema AND j.hypertable_name = h.hypertable_name))
 FROM timescaledb_information.hypertables h
 WHERE to_regclass(format('%I.%I', hypertable_schema, hypertable_name)) = to_regclass($1)";

pub(super) const HOLDERS: &str = "SELECT json_build_object(
    'transaction', (SELECT json_build_array(pid, extract(epoch FROM now() - xact_start)::float8) FROM pg_stat_activity
                    WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
                    ORDER BY xact_start LIMIT 1),
    'prepared', (SELECT json_build_array(gid, extract(epoch FROM now() - prepared)::float8) FROM pg_prepared_xacts
                 ORDER BY prepared LIMIT 1),
    'slots', (SELECT coalesce(json_agg(json_build_array(slot_name, CASE WHEN pg_is_in_recovery() THEN 0
                     ELSE coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint END)), '[]')
              FROM pg_replication_slots WHERE NOT active),
    'standbys', (SELECT count(*) FROM pg_stat_replication))";
