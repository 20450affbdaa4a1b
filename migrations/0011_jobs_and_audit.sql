-- Long work on dead letters that somebody has asked for by the admin API. A row holds how far it is, and is written in the
-- transactions of the work itself: whoever goes on with it, after a crash too, does so where it was.
CREATE TABLE IF NOT EXISTS dead_letter_jobs (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant TEXT NOT NULL,
    -- replay or purge
    kind TEXT NOT NULL,
    -- Which letters, and how.
    request JSONB NOT NULL,
    author TEXT NOT NULL,
    -- queued, running, done, failed, cancelled
    state TEXT NOT NULL DEFAULT 'queued',
    asked_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    started_at TIMESTAMPTZ,
    ended_at TIMESTAMPTZ,
    -- The replica that works on it, by its lease: no other replica takes the job before that is over, and what is done
    -- under another lease does not commit.
    replica TEXT,
    lease UUID,
    leased_until TIMESTAMPTZ,
    -- How often it was begun since a letter was last done.
    attempts INT NOT NULL DEFAULT 0,
    -- Letters that came later are not part of the work.
    began TIMESTAMPTZ,
    newest BIGINT,
    -- The number of the last letter done.
    after BIGINT NOT NULL DEFAULT 0,
    done BIGINT NOT NULL DEFAULT 0,
    in_total BIGINT,
    -- How many letters ended how.
    outcomes JSONB NOT NULL DEFAULT '{}',
    -- What it does, or waits for.
    note TEXT,
    error TEXT
);
CREATE INDEX IF NOT EXISTS dead_letter_jobs_tenant ON dead_letter_jobs (tenant, id);
CREATE INDEX IF NOT EXISTS dead_letter_jobs_open ON dead_letter_jobs (id) WHERE state IN ('queued', 'running');

-- Who has asked for a change, by the admin API or the command line, and what came of it. Rows are only added, and the
-- oldest deleted.
CREATE TABLE IF NOT EXISTS admin_audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- api or command
    via TEXT NOT NULL,
    -- The name of a token, or of a user.
    author TEXT NOT NULL,
    action TEXT NOT NULL,
    tenant TEXT,
    target TEXT NOT NULL,
    -- done, refused, failed
    outcome TEXT NOT NULL,
    -- Of the API's answer.
    status INT,
    detail TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS admin_audit_at ON admin_audit (at);
