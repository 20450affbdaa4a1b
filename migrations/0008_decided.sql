-- What each transaction has decided, a row for each. No row is written over: under a snapshot that somebody keeps open for
-- long, for a backup or a report, the versions of such a row cannot be removed, and each update would go through all of them.
CREATE TABLE IF NOT EXISTS decided (
    run UUID NOT NULL,
    -- Counted up by the run.
    number BIGINT NOT NULL,
    stream TEXT NOT NULL,
    consumer_group TEXT NOT NULL,
    -- The milliseconds of the smallest and of the greatest entry ID.
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    -- Entry IDs, each with a checksum of the fields, and what is to be published for them; see host/src/store/record.rs.
    entries BYTEA NOT NULL,
    committed_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (run, number)
);

-- What comes again is mostly what came last.
CREATE INDEX IF NOT EXISTS decided_last ON decided (last);

-- Keeps a place of a run for a transaction, unless the run is fenced: see 0006. Locks the row and writes no version of it.
CREATE OR REPLACE FUNCTION sluicegate_hold(wanted_run UUID, wanted_slot INT) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM commits WHERE run = wanted_run AND slot = wanted_slot AND fenced_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'what this run had in flight was taken over by another' USING ERRCODE = 'SGF01';
    END IF;
    RETURN TRUE;
END
$$;
