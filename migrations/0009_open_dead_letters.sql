-- What is asked for are letters that no replay has settled, of a tenant, with a reason: a settled one leaves the index. The
-- condition is that of host/src/store/dead_letter_store.rs. Codes of violations have no index: it would make each letter dearer to write.
--
-- On a table of many millions this takes a while, in which no letter is written. Who wants to avoid that makes the same
-- index before, with CREATE INDEX CONCURRENTLY.
CREATE INDEX IF NOT EXISTS dead_letters_open ON dead_letters (tenant, reason, id)
    WHERE replay_outcome IS NULL OR replay_outcome NOT IN ('stored', 'duplicate', 'discarded');
