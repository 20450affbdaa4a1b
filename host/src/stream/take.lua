-- Takes pending entries into a consumer's hands, each only if it is still as it was found: with the same owner, with
-- the same delivery count, idle for as long as is wanted. The count stays as it is (see attempts.lua).
--
-- One that was deleted from the stream is given without fields, and left with its owner: XCLAIM would drop it, and
-- what nobody has pending is not told of any more after a crash.
--
-- KEYS[1]: the stream; ARGV: the group, the consumer, the idle time in milliseconds, then ID, owner and delivery
-- count of each. Returns ID and fields of those that were taken.

local stream, group, consumer, idle = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local taken = {}
for i = 4, #ARGV, 3 do
    local id, owner, deliveries = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local found = redis.call('XPENDING', stream, group, id, id, 1)[1]
    if found and found[2] == owner and found[3] >= idle and tostring(found[4]) == deliveries then
        local entry = redis.call('XRANGE', stream, id, id)[1]
        if entry then
            redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
        end
        taken[#taken + 1] = entry or {id, false}
    end
end
return taken
