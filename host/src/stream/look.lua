-- Looks at a group. Finds what it can never be given: entries that were trimmed or deleted before their turn.
--
-- They are counted as read, in the group itself. So they are found once, by whichever replica looks first, and
-- Redis 7.0, which otherwise leaves them out of `entries-read` for good, counts on from the right place.
--
-- And finds who already has what comes next: if the group was set back, entries after the ID that was delivered last are
-- pending, and the next read takes them from the consumers that may be at work on them.
--
-- KEYS[1]: the stream; ARGV[1]: the group; ARGV[2]: how many entries are to be read next.
-- Returns how many are newly found, the ID that was delivered last, how many entries were ever added, how many of
-- those are unread, or -1 if Redis cannot tell, as after a deletion from the middle, and the consumers that have what
-- comes next.

local function map(flat)
    local fields = {}
    for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
    return fields
end

-- Decimal numbers of up to 20 digits, more than a number of Lua holds.
local function compare(a, b)
    if #a ~= #b then return #a - #b end
    return a == b and 0 or (a < b and -1 or 1)
end

local function is_after(id, other)
    local milliseconds, sequence = id:match('^(%d+)-(%d+)$')
    local other_milliseconds, other_sequence = other:match('^(%d+)-(%d+)$')
    local order = compare(milliseconds, other_milliseconds)
    return order > 0 or (order == 0 and compare(sequence, other_sequence) > 0)
end

local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then return {0, '0-0', 0, 0, {}} end
info = map(info)
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = map(flat)
    if group.name == ARGV[1] then
        local added, gone = info['entries-added'], info['entries-added'] - info.length
        local read, last, lost = group['entries-read'], group['last-delivered-id'], 0
        local first = info.length > 0 and info['recorded-first-entry-id']
        local is_whole = not first or is_after(first, info['max-deleted-entry-id'])
        local right = read
        if last == info['last-generated-id'] then
            right = added
        elseif (not first or is_after(first, last)) and is_whole then
            -- The stream begins after what was delivered last: what is gone are all entries before its first.
            right = gone
            lost = read and math.max(gone - read, 0) or 0
        end
        if right ~= read then
            redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', right)
        end
        local owners, known = {}, {}
        -- A few more: those that were deleted from the stream are not read.
        local wanted = tonumber(ARGV[2])
        local after = wanted > 0 and redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. last, '+', wanted + 1000) or {}
        for _, pending in ipairs(after) do
            if not known[pending[2]] then
                known[pending[2]] = true
                owners[#owners + 1] = pending[2]
            end
        end
        return {lost, last, added, right and math.max(added - right, 0) or -1, owners}
    end
end
return {0, '0-0', info['entries-added'], -1, {}}
