-- Tells what a group has before it, and changes nothing.
--
-- KEYS[1]: the stream; ARGV[1]: the group.
-- Returns how many entries are in the stream, how many are pending, how many the group was not given yet, or -1 if
-- Redis cannot tell, the ID that was delivered last, the first ID that is pending, and the first ID that the group was
-- not given yet. An ID that there is not is empty. Without a group, returns nothing.

local function map(flat)
    local fields = {}
    for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
    return fields
end

local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return {} end
for _, flat in ipairs(groups) do
    local group = map(flat)
    if group.name == ARGV[1] then
        local last, first_pending = group['last-delivered-id'], ''
        if group.pending > 0 then first_pending = redis.call('XPENDING', KEYS[1], ARGV[1])[2] end
        local next = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)[1]
        local length = redis.call('XLEN', KEYS[1])
        return {length, group.pending, group.lag or -1, last, first_pending, next and next[1] or ''}
    end
end
return {}
