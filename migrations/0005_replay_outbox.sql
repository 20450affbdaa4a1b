-- What rules have published while dead letters were replayed: a row is written
-- in the transaction of the replay, and deleted when its entries are sent.
CREATE TABLE IF NOT EXISTS replay_outbox (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant TEXT NOT NULL,
    -- Streams with their entries; see host/src/store/outbox.rs.
    publications BYTEA NOT NULL,
    committed_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
