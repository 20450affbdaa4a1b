-- Sets the delivery counts of entries that a consumer has in hand, and changes nothing else of them.
--
-- One that was taken over meanwhile is left alone, and so is one that was deleted from the stream, which XCLAIM would
-- drop from the pending entries list.
--
-- KEYS[1]: the stream; ARGV: the group, the consumer, then ID and delivery count of each.

local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
for i = 3, #ARGV, 2 do
    local id, deliveries = ARGV[i], ARGV[i + 1]
    local found = redis.call('XPENDING', stream, group, id, id, 1)[1]
    if found and found[2] == consumer and #redis.call('XRANGE', stream, id, id) > 0 then
        redis.call('XCLAIM', stream, group, consumer, 0, id, 'IDLE', found[3], 'RETRYCOUNT', deliveries, 'JUSTID')
    end
end
