-- Removes a consumer from its group, unless it has entries pending, which would be lost with it.
--
-- KEYS[1]: the stream; ARGV: the group, the consumer. Returns 1 if it was removed.

for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local consumer = {}
    for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
    if consumer.name == ARGV[2] and consumer.pending == 0 then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
        return 1
    end
end
return 0
