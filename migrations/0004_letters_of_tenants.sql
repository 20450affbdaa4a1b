-- Two tenants may read one stream in two groups, and each has dead letters of its own.
ALTER TABLE dead_letters DROP CONSTRAINT IF EXISTS dead_letters_stream_entry_id_fingerprint_key;
ALTER TABLE dead_letters ADD UNIQUE (tenant, stream, entry_id, fingerprint);
