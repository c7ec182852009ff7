-- Create counters, and remove what has expired: counters that are no longer needed, and reservations that were charged a day ago.

-- Create a counter as one of the group `group`, "" for none.
function counters.create(counter, ends, group)
  counter.is_new, counter.is_created, counter.ends, counter.group = false, true, ends, group
  if group ~= '' then redis.call('HINCRBY', keys.groups, group, 1) end
end

-- Give a new sliding counter its first mark. The marks of further ones leave room for changes: see ring.lua.
function counters.give_mark(counter)
  counter.mark = redis.call('HINCRBY', keys.counters, 'marks', 64) % 4294967296
end

-- When a counter is no longer needed. A closed window is kept for 40 days, one of a minute for 4, because a clock that was wrong
-- may become right again.
function counters.expires_at(counter)
  if counter.is_sliding then return ring.ends_at(counter) end
  local start = tonumber(string.sub(counter.field, 1, string.find(counter.field, ':', 1, true) - 1))
  return counter.ends + counters.retention(counter.ends - start)
end

function counters.retention(length) return (length <= script.MINUTE and 4 or 40) * 86400 * script.SECOND end

local HELD_RETENTION = 3600 * script.SECOND

local function remove_hold(call)
  local hold = holds.read(call)
  if hold and hold[1] == '' then redis.call('HDEL', keys.holds, call) end
end

-- Move a ring that is later than now, because the clock was set back, to now.
local function move_later_ring(counter)
  if counter.newest > math.floor(script.now / counter.width) then
    ring.advance(counter, counter.width * ring.CELLS)
    counters.mark_changed(counter)
  end
end

-- Look at a counter again at `due`. Groups of sliding counters must know that they have one that was looked at now.
local function queue_again(counter, due)
  redis.call('ZADD', keys.expiry, script.text(due), counter.field)
  if counter.is_sliding and counter.group ~= '' then
    local latest = tonumber(redis.call('HGET', keys.groups, 'latest') or 0)
    if script.now > latest + script.SECOND then redis.call('HSET', keys.groups, 'latest', script.text(script.now)) end
  end
end

local function remove_counter(field)
  local is_used = counters.known[field]
  counters.read({field})
  local counter = counters.known[field]
  if counter.is_new then return end
  if counter.is_sliding and not is_used then move_later_ring(counter) end
  local due = counters.expires_at(counter)
  if is_used then
    due = math.max(due, script.now + script.SECOND)  -- an operation of this script may change it
  elseif due <= script.now and counter.held ~= 0 then
    due = script.now + HELD_RETENTION
  end
  if due > script.now then
    queue_again(counter, due)
    return
  end
  redis.call('HDEL', keys.counters, field)
  counters.known[field] = nil
  local group = string.match(counter.group, '^[^%z]*')
  if group ~= '' and redis.call('HINCRBY', keys.groups, group, -1) <= 0 then redis.call('HDEL', keys.groups, group) end
end

function operations.expire(most)
  local due = redis.call('ZRANGEBYSCORE', keys.expiry, '-inf', script.text(script.now), 'LIMIT', 0, most)
  if #due == 0 then return end
  redis.call('ZREM', keys.expiry, unpack(due))
  for _, member in ipairs(due) do
    if string.sub(member, 1, 2) == 'd:' then remove_hold(string.sub(member, 3)) else remove_counter(member) end
  end
end
