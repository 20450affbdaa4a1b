-- Which rules each replica has in force, so that a replay can tell whether it judges by the same ones.
CREATE TABLE IF NOT EXISTS rules_in_force (
    tenant TEXT NOT NULL,
    consumer TEXT NOT NULL,
    -- SHA-256 of the component.
    component BYTEA NOT NULL,
    -- SHA-256 of the salt and of what else decides: the guest's settings, grants and granted statements. They can hold
    -- secrets that are easy to guess, hence the salt.
    salt BYTEA NOT NULL,
    settings BYTEA NOT NULL,
    since TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, consumer)
);
