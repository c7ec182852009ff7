-- Entries: small values that expire. Each is stored behind the time of its expiry.

local function remove_entries(keys)
  if #keys == 0 then return end
  call('HDEL', ENTRIES, unpack(keys))
  call('ZREM', ENTRY_ENDS, unpack(keys))
end

function operations.expire_entries(most)
  remove_entries(call('ZRANGEBYSCORE', ENTRY_ENDS, '-inf', whole(now), 'LIMIT', 0, most))
end

local function keep_entry(key, ends, value)
  call('HSET', ENTRIES, key, ends .. ':' .. value)
  call('ZADD', ENTRY_ENDS, ends, key)
end

-- Arguments: microseconds to keep them, most entries in all, expired ones to remove; then key and value of each.
function operations.remember(operation)
  local ends, added = whole(now + operation[2]), (#operation - 4) / 2
  for at = 5, #operation, 2 do keep_entry(operation[at], ends, operation[at + 1]) end
  operations.expire_entries(added + operation[4])
  local excess = min(call('ZCARD', ENTRY_ENDS) - operation[3], added + operation[4])
  if excess > 0 then remove_entries(call('ZRANGE', ENTRY_ENDS, 0, excess - 1)) end
  return true
end

-- Arguments: keys. Returns their values, false for one that is missing or has expired.
function operations.recall(operation)
  local found = {}
  for at = 2, #operation do
    local kept = call('HGET', ENTRIES, operation[at])
    local colon = kept and find(kept, ':', 1, true)
    found[at - 1] = colon and tonumber(sub(kept, 1, colon - 1)) > now and sub(kept, colon + 1)
  end
  return found
end

-- Arguments: keys.
function operations.forget(operation)
  remove_entries({unpack(operation, 2)})
  return true
end
