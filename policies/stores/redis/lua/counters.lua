-- The counters that this call has read, by their field. They are written once, at its end. The stored form of a calendar counter
-- is the doubles spent, held and end, and the name of its group; and after that "\0" and the number of its resets, if there were any.
-- Sliding counters, whose fields begin with "s", have rings: ring.lua.
counters.known, counters.changed, counters.FORMAT, counters.BYTES = {}, {}, '<ddd', 24

-- The key of the claim that a field is named by.
function counters.key_of(field) return string.sub(field, string.find(field, ':', 1, true) + 1) end

-- Read the counters of `fields` that have not been read.
function counters.read(fields)
  local known, missing = counters.known, {}
  for at = 1, #fields do
    if known[fields[at]] == nil then
      missing[#missing + 1] = fields[at]
      known[fields[at]] = false
    end
  end
  if #missing == 0 then return end
  local values = redis.call('HMGET', keys.counters, unpack(missing))
  for at = 1, #missing do
    local field, value = missing[at], values[at]
    if string.byte(field) == script.SLIDING then
      known[field] = ring.decode(field, value)
    else
      local counter = {field = field, is_new = not value, group = '', spent = 0, held = 0, ends = 0, claims = false, is_changed = false}
      if value then
        counter.spent, counter.held, counter.ends = struct.unpack(counters.FORMAT, value)
        if #value > counters.BYTES then counter.group = string.sub(value, counters.BYTES + 1) end
      end
      known[field] = counter
    end
  end
end

function counters.mark_changed(counter)
  if counter.is_changed then return end
  counter.is_changed = true
  counters.changed[#counters.changed + 1] = counter
end
