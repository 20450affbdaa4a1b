-- Which entries the last batches decided, written in their own transactions: an
-- entry that is delivered again, because the service died before it was
-- acknowledged, is not judged a second time, perhaps by other rules.
--
-- A run of the service overwrites its own rows: there are as many as it may
-- have batches in flight.
CREATE TABLE IF NOT EXISTS commits (
    -- A run of a pipeline, and the place of the batch among those in flight.
    run UUID NOT NULL,
    slot INT NOT NULL,
    stream TEXT NOT NULL,
    consumer_group TEXT NOT NULL,
    -- Entry IDs, each with a checksum of the fields, and what is to be
    -- published for them; see host/src/store/record.rs.
    entries BYTEA NOT NULL,
    committed_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (run, slot)
) WITH (fillfactor = 50); -- room to overwrite a row in its own page
