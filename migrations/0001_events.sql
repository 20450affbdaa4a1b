-- The table that accepted events go to. It may have been made by hand before.
CREATE TABLE IF NOT EXISTS events (
    time TIMESTAMPTZ NOT NULL,
    event_id UUID NOT NULL,
    event_type TEXT NOT NULL,
    user_id TEXT NOT NULL,
    properties JSONB,
    PRIMARY KEY (event_id, time)
);

-- Without the extension it stays a plain table: the service comes here only
-- when it was told that this is wanted (ALLOW_PLAIN_TABLE).
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'timescaledb') THEN
        PERFORM create_hypertable('events', 'time', if_not_exists => TRUE, migrate_data => TRUE);
    END IF;
END
$$;
