-- Remove what has expired: counters that are no longer needed, and reservations that were charged a day ago.
local HOLD_RETENTION, HELD_RETENTION = 86400 * SECOND, 3600 * SECOND

local function remove_hold(call_id)
  local hold = read_hold(call_id)
  if hold and hold[1] == '' then call('HDEL', HOLDS, call_id) end
end

local function remove_counter(field)
  local value = call('HGET', COUNTERS, field)
  if not value then return end
  local counter = decode_counter(field, value)
  local due = expires_at(counter)
  if counters[field] then
    due = max(due, now + SECOND)  -- an operation of this script may change it
  elseif due <= now and not counter.is_sliding and counter.held ~= 0 then
    due = now + HELD_RETENTION
  end
  if due > now then
    call('ZADD', EXPIRY, whole(due), field)
    return
  end
  call('HDEL', COUNTERS, field)
  if counter.group ~= '' and call('HINCRBY', GROUPS, counter.group, -1) <= 0 then call('HDEL', GROUPS, counter.group) end
end

function operations.expire(most)
  local due = call('ZRANGEBYSCORE', EXPIRY, '-inf', whole(now), 'LIMIT', 0, most)
  if #due == 0 then return end
  call('ZREM', EXPIRY, unpack(due))
  for _, member in ipairs(due) do
    if sub(member, 1, 2) == 'd:' then remove_hold(sub(member, 3)) else remove_counter(member) end
  end
end
