-- The counters that this call has read, by their field. They are written once, at its end. The stored form of a calendar counter
-- is the doubles spent, held and end, and the name of its group.
counters.known, counters.changed, counters.FORMAT, counters.BYTES = {}, {}, '<ddd', 24

function counters.is_sliding(field) return string.byte(field) == 115 end  -- 's'

-- The key of the claim that a field is named by.
function counters.key_of(field) return string.sub(field, string.find(field, ':', 1, true) + 1) end

function counters.decode(field, value)
  if counters.is_sliding(field) then
    parts.ring()
    return ring.decode(field, value)
  end
  local counter = {field = field, is_new = not value, group = '', spent = 0, held = 0, ends = 0, claims = false, is_changed = false}
  if value then
    counter.spent, counter.held, counter.ends = struct.unpack(counters.FORMAT, value)
    if #value > counters.BYTES then counter.group = string.sub(value, counters.BYTES + 1) end
  end
  return counter
end

function counters.encode(counter)
  if counter.is_sliding then return ring.encode(counter) end
  return struct.pack(counters.FORMAT, counter.spent, counter.held, counter.ends) .. counter.group
end

-- Read the counters of `fields` that have not been read.
function counters.read(fields)
  local known, missing = counters.known, {}
  for _, field in ipairs(fields) do
    if known[field] == nil then
      missing[#missing + 1] = field
      known[field] = false
    end
  end
  if #missing == 0 then return end
  local values = redis.call('HMGET', keys.counters, unpack(missing))
  for at, field in ipairs(missing) do known[field] = counters.decode(field, values[at]) end
end

function counters.mark_changed(counter)
  if counter.is_changed then return end
  counter.is_changed = true
  counters.changed[#counters.changed + 1] = counter
end

function counters.write()
  local changed = counters.changed
  if #changed > 0 and not script.has_written then
    redis.call('HDEL', keys.counters, '')  -- a full server allows writes after one that needs no memory
  end
  for first = 1, #changed, 100 do
    local written, queued = {}, {}
    for at = first, math.min(#changed, first + 99) do
      local counter = changed[at]
      written[#written + 1] = counter.field
      written[#written + 1] = counters.encode(counter)
      if counter.is_created then
        queued[#queued + 1] = script.text(counters.expires_at(counter))
        queued[#queued + 1] = counter.field
      end
    end
    redis.call('HSET', keys.counters, unpack(written))
    if #queued > 0 then redis.call('ZADD', keys.expiry, unpack(queued)) end
  end
end
