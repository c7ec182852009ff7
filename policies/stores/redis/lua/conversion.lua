-- The conversion of format 1, which had a key for each counter, reservation and entry:
--
--   c:START:KEY  a calendar counter: s spent, h reserved, e end of the window
--   s:KEY, e:KEY  a sliding counter, and the list of its entries "first:last:amount"
--   n:GROUP  the keys of the counters of a group of identities, by their end; k:KEY  an entry "end:value"
--   h:CALL, x:CALL, o:OWNER  reservations, calls that have ended, and calls of an owner; w, a, k  sorted sets
--
-- Reservations are charged: their processes have ended. Each key is converted and removed in one step.
local GROUP_MEMBERS = 100
local PREFIX = string.sub(keys.meta, 1, -2)
local convert = {}

local function add_calendar_counter(field, spent, ends)
  counters.read({field})
  local counter = counters.known[field]
  if counter.is_new then counters.create(counter, ends, '') end
  counter.spent = math.min(counter.spent + spent, script.LARGEST)
  counters.mark_changed(counter)
end

function convert.c(field)
  local key = PREFIX .. 'c:' .. field
  local found = redis.call('HMGET', key, 's', 'h', 'e')
  redis.call('UNLINK', key)
  if found[3] then add_calendar_counter(field, tonumber(found[1] or 0) + tonumber(found[2] or 0), tonumber(found[3])) end
end

-- What a sliding counter of format 1 counts is moved into the current cell.
function convert.s(counter_key)
  local length = tonumber(string.match(counter_key, 'sliding@([^\31]*)$') or '')
  local entries = PREFIX .. 'e:' .. counter_key
  local total = 0
  if length then
    length = math.floor(length * script.SECOND + 0.5)
    for _, logged in ipairs(redis.call('LRANGE', entries, 0, -1)) do
      local last, amount = string.match(logged, ':(%d+):(%d+)$')
      if last and tonumber(last) > script.now - length then total = total + tonumber(amount) end
    end
  end
  redis.call('UNLINK', PREFIX .. 's:' .. counter_key, entries)
  if total == 0 then return end
  local field = 's:' .. counter_key
  counters.read({field})
  local counter = counters.known[field]
  ring.advance(counter, length)
  if counter.is_new then counters.create(counter, nil, '') end
  ring.add(counter, counter.newest, total)
  counters.mark_changed(counter)
end

convert.e = convert.s

-- Make the counters of a group its members. A large group takes several steps; returns whether there are more.
function convert.n(group)
  local key = PREFIX .. 'n:' .. group
  local members = redis.call('ZRANGE', key, 0, GROUP_MEMBERS - 1)
  local start = not string.find(group, '\31sliding@', 1, true) and string.match(group, ':(%d+)$')
  for _, member in ipairs(members) do
    local field = (start or 's') .. ':' .. member
    if start then convert.c(field) else convert.s(member) end
    counters.read({field})
    local counter = counters.known[field]
    if not counter.is_new and counter.group == '' then
      counter.group = group
      redis.call('HINCRBY', keys.groups, group, 1)
      counters.mark_changed(counter)
    end
  end
  if #members > 0 then redis.call('ZREM', key, unpack(members)) end
  return redis.call('EXISTS', key) == 1
end

-- An entry; its value was bytes, and is text now: see `RedisStore.remember`.
function convert.k(entry)
  local key = PREFIX .. 'k:' .. entry
  local kept = redis.call('GET', key)
  redis.call('UNLINK', key)
  local ends, value = string.match(kept or '', '^(%d+):(.*)$')
  if not ends or tonumber(ends) <= script.now then return end
  value = string.gsub(value, '[\128-\255]', function(each)
    local byte = string.byte(each)
    return string.char(192 + math.floor(byte / 64), 128 + byte % 64)
  end)
  keep_entry(entry, ends, value)
end

-- Convert the keys of one page. Argument: the cursor. Result: the next cursor, '0' at the end; whether a key is not finished.
function operations.convert(operation)
  local pattern = string.gsub(PREFIX, '([%*%?%[%]\\%^])', '\\%1')
  local page = redis.call('SCAN', operation[2], 'MATCH', pattern .. '*:*', 'COUNT', 500)
  local is_unfinished = false
  for _, key in ipairs(page[2]) do
    local kind, name = string.match(string.sub(key, #PREFIX + 1), '^(%l):(.*)$')
    if kind and convert[kind] then
      is_unfinished = convert[kind](name) or is_unfinished
    elseif kind == 'h' or kind == 'x' or kind == 'o' then
      redis.call('UNLINK', key)
    end
  end
  return {page[1], is_unfinished}
end
