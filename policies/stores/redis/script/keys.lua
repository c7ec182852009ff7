-- The keys of storage format 2, and what all other files use. Times are microseconds since 1970. KEYS are all keys, so that a
-- cluster can move them to another node at any time:
--
--   m  a hash: format, generation, period, sweep, passes, notice, notices, limits, limits_before, limits_id, migrating
--   c  a hash of counters. "START:KEY" is a calendar counter: the doubles spent, held and end, then the name of its group.
--      "s:KEY" is a sliding counter: see ring.lua. "generation" is the same as in m: without it the counters were lost
--   h  a hash of reservations by call: MessagePack [owner, part, part, ...]; a part is [number, ceiling, whether it was charged,
--      entry, ...]; an entry is [field in c, cell of a sliding counter or 0, amount, key of the claim where it is another].
--      The owner is "" if all parts were charged
--   x, y  hashes of the calls that have ended in this minute and in the one before: "1", or "0" if there was no reservation
--   w  a hash of owners (processes) by the time of their last heartbeat, and "format" with the format
--   e  a sorted set of what expires, by time: fields of c, and "d:CALL" for a reservation that was charged
--   n  a hash of the number of counters in each group of identities
--   k, ke  a hash of entries "end:value", and a sorted set of their keys by end
local META, COUNTERS, HOLDS, OWNERS, EXPIRY, GROUPS, ENTRIES, ENTRY_ENDS = unpack(KEYS, 1, 8)
local FORMAT, LARGEST, SECOND, MINUTE = '2', 9007199254740991, 1000000, 60000000
local call, pack, unpack_message = redis.call, cmsgpack.pack, cmsgpack.unpack
local floor, max, min, find, sub = math.floor, math.max, math.min, string.find, string.sub

-- The time of this script, the process that sent it, and the minute that the tombstones of ended calls were last cleared for.
local now, owner, cleared_period
-- Whether a reservation was made; then the owner must have a heartbeat.
local has_reserved = false

-- Returns the operations that are needed rarely. They are created when one is first called: see script.py.
local rare

local function whole(number) return string.format('%.0f', number) end

-- The result of an operation whose windows are not the current ones, and of one whose call has ended.
local OTHER_WINDOW, CALL_ENDED = {1}, {2}

-- How a call ended: '1', '0' if it was settled without a reservation, or false if it has not ended in the last minute.
local function ending_of(call_id)
  return call('HGET', KEYS[9], call_id) or call('HGET', KEYS[10], call_id)
end

local function record_ending(call_id, how)
  local period = floor(now / MINUTE)
  local ended = KEYS[9 + period % 2]
  if cleared_period ~= period then
    call('UNLINK', ended)
    call('HSET', META, 'period', whole(period))
    cleared_period = period
  end
  call('HSET', ended, call_id, how)
end
