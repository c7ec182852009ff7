-- The keys of storage format 2, and what all other files use. Times are microseconds since 1970. KEYS are all keys, so that a
-- cluster can move them to another node at any time:
--
--   c  a hash of counters. "START:KEY" is a calendar counter: see counters.lua. "s:KEY" is a sliding counter: see ring.lua.
--      Beside them "generation", "period", the minute in which y or x was last emptied, limits, limits_before and limits_id,
--      and "marks", the last mark of a ring
--   h  a hash of reservations by call: see holds.lua
--   x, y  hashes of the calls that have ended in this minute and in the one before: "1", or "0" if there was no reservation
--   w  a hash of owners (processes) by the time of their last heartbeat
--   e  a sorted set of what expires, by time: fields of c, and "d:CALL" for a reservation that was charged
--   n  a hash of the number of counters in each group of identities. Beside them "latest", "setbacks" and "lost": see groups.lua
--   k, ke  a hash of entries "end:value", and a sorted set of their keys by end
--   m  a hash of the rest: generation, sweep, passes, notice, notices
--
-- Each of them has a member "format", with the number of the format or, in a sorted set, no time.
--
-- A server runs the whole script in each call, and to create a function costs as much as to call one. So each file puts its functions
-- into one of these few tables, and files that a batch does not need are skipped: see script.py.
local counters, ring, fitting, holds, reserve, settle, groups

local keys = {
  counters = KEYS[1], holds = KEYS[2], owners = KEYS[3], expiry = KEYS[4], groups = KEYS[5], entries = KEYS[6],
  entry_ends = KEYS[7], meta = KEYS[8]
}

-- The state of this call: time, process that sent it, whether to record its heartbeat, whether that was done,
-- and whether a counter may be written on a full server; and constants. The fields of sliding counters begin with 's', which is 115.
local script = {
  FORMAT = '2', SLIDING = 115, LARGEST = 9007199254740991, SECOND = 1000000, MINUTE = 60000000, now = 0, owner = '', period = 0, beats = false,
  has_beaten = false, has_written = false
}

-- The operations by name, each a function of the list of its name and arguments.
local operations = {}

function script.text(number) return string.format('%.0f', number) end
