-- A run whose entries another consumer has taken over must not commit them any more, however late it
-- comes: it may have been frozen meanwhile. Who takes them over sets `fenced_at` in all rows of the
-- run, and waits for a transaction that has one of them. Hence a run makes all its rows at its start.
ALTER TABLE commits ADD COLUMN IF NOT EXISTS consumer TEXT NOT NULL DEFAULT '';
ALTER TABLE commits ADD COLUMN IF NOT EXISTS fenced_at TIMESTAMPTZ;

CREATE OR REPLACE FUNCTION sluicegate_refuse_fenced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what this run had in flight was taken over by another' USING ERRCODE = 'SGF01';
END
$$;

CREATE OR REPLACE TRIGGER refuse_fenced BEFORE UPDATE OF slot, entries ON commits
    FOR EACH ROW WHEN (OLD.fenced_at IS NOT NULL) EXECUTE FUNCTION sluicegate_refuse_fenced();
