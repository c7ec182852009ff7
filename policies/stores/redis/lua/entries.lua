-- Entries: small values that expire. Each is stored behind the time of its expiry.

local function remove_entries(names)
  if #names == 0 then return end
  redis.call('HDEL', keys.entries, unpack(names))
  redis.call('ZREM', keys.entry_ends, unpack(names))
end

function operations.expire_entries(most)
  remove_entries(redis.call('ZRANGEBYSCORE', keys.entry_ends, '-inf', script.text(script.now), 'LIMIT', 0, most))
end

local function keep_entry(key, ends, value)
  redis.call('HSET', keys.entries, key, ends .. ':' .. value)
  redis.call('ZADD', keys.entry_ends, ends, key)
end

-- Arguments: microseconds to keep them, most entries in all, expired ones to remove; then key and value of each.
function operations.remember(operation)
  local ends, added = script.text(script.now + operation[2]), (#operation - 4) / 2
  for at = 5, #operation, 2 do keep_entry(operation[at], ends, operation[at + 1]) end
  operations.expire_entries(added + operation[4])
  local excess = math.min(redis.call('ZCARD', keys.entry_ends) - 1 - operation[3], added + operation[4])  -- without "format"
  if excess > 0 then remove_entries(redis.call('ZRANGE', keys.entry_ends, 0, excess - 1)) end
  return true
end

-- Arguments: keys. Returns their values, false for one that is missing or has expired.
function operations.recall(operation)
  local found = {}
  for at = 2, #operation do
    local kept = redis.call('HGET', keys.entries, operation[at])
    local colon = kept and string.find(kept, ':', 1, true)
    found[at - 1] = colon and tonumber(string.sub(kept, 1, colon - 1)) > script.now and string.sub(kept, colon + 1)
  end
  return found
end

-- Arguments: keys.
function operations.forget(operation)
  remove_entries({unpack(operation, 2)})
  return true
end
