-- Entries that were not stored, each with its reason, written in the same
-- transaction as the rest of its batch.
CREATE TABLE IF NOT EXISTS dead_letters (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant TEXT NOT NULL,
    stream TEXT NOT NULL,
    -- As Redis writes it: <milliseconds>-<sequence>.
    entry_id TEXT NOT NULL,
    -- SHA-256 of the fields. A stream that was deleted and made again can use
    -- an entry ID a second time, for another entry.
    fingerprint BYTEA NOT NULL,
    -- rejected, undecodable, deleted, delivered_too_often, bad_verdict,
    -- trapped, timed_out, out_of_memory, refused
    reason TEXT NOT NULL,
    -- [{"path": …, "code": …, "message": …}, …]
    violations JSONB NOT NULL,
    -- The entry as it came: name, value, name, value, …, any bytes. NULL when
    -- it was deleted from the stream before it could be read.
    fields BYTEA[],
    -- How often Redis had delivered the entry by then.
    deliveries BIGINT NOT NULL,
    -- SHA-256 of the component that was in force.
    component BYTEA NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- What came of the last replay: stored, duplicate or discarded, which
    -- settle the letter, or a reason as above, which leaves it open.
    replay_outcome TEXT,
    replay_component BYTEA,
    replayed_at TIMESTAMPTZ,
    UNIQUE (stream, entry_id, fingerprint)
);

CREATE INDEX IF NOT EXISTS dead_letters_recorded_at ON dead_letters (recorded_at);
