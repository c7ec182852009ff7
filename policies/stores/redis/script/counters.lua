-- The counters that this script has read, by their field. They are written once, at its end.
local CALENDAR_FORMAT, CALENDAR_BYTES = '<ddd', 24
local RETENTION, MINUTE_RETENTION = 40 * 86400 * SECOND, 4 * 86400 * SECOND
local counters, changed = {}, {}

local function decode_counter(field, value)
  local counter = {field = field, is_sliding = sub(field, 1, 2) == 's:', is_new = not value, group = ''}
  if counter.is_sliding then
    if value then decode_ring(counter, value) end
  elseif value then
    counter.spent, counter.held, counter.ends = struct.unpack(CALENDAR_FORMAT, value)
    counter.group = sub(value, CALENDAR_BYTES + 1)
  else
    counter.spent, counter.held = 0, 0
  end
  return counter
end

local function encode_counter(counter)
  if counter.is_sliding then return encode_ring(counter) end
  return struct.pack(CALENDAR_FORMAT, counter.spent, counter.held, counter.ends) .. counter.group
end

-- Read the counters of `fields` that have not been read.
local function read_counters(fields)
  local missing = {}
  for _, field in ipairs(fields) do
    if not counters[field] then
      missing[#missing + 1] = field
      counters[field] = true
    end
  end
  if #missing == 0 then return end
  local values = call('HMGET', COUNTERS, unpack(missing))
  for at, field in ipairs(missing) do counters[field] = decode_counter(field, values[at]) end
end

local function mark_changed(counter)
  if not counter.is_changed then
    counter.is_changed = true
    changed[#changed + 1] = counter
  end
end

-- When a counter is no longer needed. A closed window is kept, because a clock that was wrong may become right again.
local function expires_at(counter)
  if counter.is_sliding then return (counter.newest + SLOTS) * counter.width end
  local start = tonumber(sub(counter.field, 1, find(counter.field, ':', 1, true) - 1))
  return counter.ends + (counter.ends - start <= MINUTE and MINUTE_RETENTION or RETENTION)
end

-- Create a counter that `reserve` counts in for the first time, as one of the group `group` ("" for none).
local function create_counter(counter, ends, group)
  counter.is_new, counter.is_created, counter.ends, counter.group = false, true, ends, group
  if group ~= '' then call('HINCRBY', GROUPS, group, 1) end
end

local function write_counters()
  if #changed == 0 then return end
  for first = 1, #changed, 100 do
    local written, queued = {}, {}
    for at = first, min(#changed, first + 99) do
      local counter = changed[at]
      written[#written + 1] = counter.field
      written[#written + 1] = encode_counter(counter)
      if counter.is_created then
        queued[#queued + 1] = whole(expires_at(counter))
        queued[#queued + 1] = counter.field
      end
    end
    call('HSET', COUNTERS, unpack(written))
    if #queued > 0 then call('ZADD', EXPIRY, unpack(queued)) end
  end
end
