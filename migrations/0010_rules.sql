-- Versions of the rules, and which of them is wanted. Each component lies here once, so that every replica and every
-- start sees the same.
CREATE TABLE IF NOT EXISTS rules_components (
    -- SHA-256 of the bytes.
    component BYTEA PRIMARY KEY,
    bytes BYTEA NOT NULL,
    stored_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
-- A component is always read whole, and to compress a large one would hold up its deployment.
ALTER TABLE rules_components ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- No row changes. What decides is in the manifest: component, world, settings, grants, statements and limits.
CREATE TABLE IF NOT EXISTS rules_versions (
    tenant TEXT NOT NULL,
    -- SHA-256 of the manifest.
    version BYTEA NOT NULL,
    -- What a column `rules_version` of a table for events holds.
    number INT GENERATED ALWAYS AS IDENTITY UNIQUE,
    component BYTEA NOT NULL REFERENCES rules_components,
    -- JSON without white space, its names in order.
    manifest TEXT NOT NULL,
    -- Where the component came from: a file's name, or `default`.
    source TEXT NOT NULL,
    author TEXT NOT NULL,
    message TEXT NOT NULL DEFAULT '',
    made_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, version)
);
CREATE INDEX IF NOT EXISTS rules_versions_component ON rules_versions (component);

-- What was wanted of a tenant's rules, by whom and why. Rows are only added, one transaction at a time, so that a greater
-- number is of a later commit.
CREATE TABLE IF NOT EXISTS rules_deployments (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant TEXT NOT NULL,
    -- default, file, settings, deploy and rollback put a version into force; pause and resume stop and start the
    -- reading; refused is a component that did not become a version.
    action TEXT NOT NULL,
    version BYTEA,
    -- Of what was refused.
    component BYTEA,
    author TEXT NOT NULL,
    -- Why, or why it was refused.
    message TEXT NOT NULL DEFAULT '',
    at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS rules_deployments_tenant ON rules_deployments (tenant, id);

-- What each replica has in force, or why not. It replaces rules_in_force, which older programs still write to.
CREATE TABLE IF NOT EXISTS rules_replicas (
    tenant TEXT NOT NULL,
    consumer TEXT NOT NULL,
    -- A run of the service.
    instance UUID NOT NULL,
    -- The last deployment that the replica has acted upon.
    deployment BIGINT NOT NULL DEFAULT 0,
    version BYTEA,
    since TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- Why the version that is wanted is not the one in force.
    refused TEXT,
    is_paused BOOLEAN NOT NULL DEFAULT FALSE,
    -- SHA-256 of the tenant's settings that are part of a version: a start with other ones is a deployment.
    settings BYTEA NOT NULL,
    events_table TEXT NOT NULL,
    seen_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, consumer)
);

ALTER TABLE dead_letters ADD COLUMN IF NOT EXISTS version BYTEA;
ALTER TABLE dead_letters ADD COLUMN IF NOT EXISTS replay_version BYTEA;
