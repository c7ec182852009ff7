-- Heartbeats of the processes, and the reservations of those that died. They are charged in full, because their calls may have
-- cost that much. They are kept for a day, so that a process that was only suspended can correct that.
local MOST_EXPIRED, MOST_CHARGED, HOLD_RETENTION = 100, 200, 86400 * script.SECOND

local function charge_hold(call, hold)
  local fields = {}
  for index = 2, #hold do
    for at = holds.FIRST_ENTRY, #hold[index], holds.ENTRY do fields[#fields + 1] = hold[index][at] end
  end
  counters.read(fields)
  for index = 2, #hold do
    local part = hold[index]
    for at = holds.FIRST_ENTRY, part[3] and 0 or #part, holds.ENTRY do
      if string.byte(part[at]) ~= script.SLIDING then
        settle.charge(part, at, part[at + 2])
        part[at + 1] = settle.resets_of(counters.known[part[at]])
      end
    end
    part[3] = true
  end
  hold[1] = ''
  redis.call('HSET', keys.holds, call, cmsgpack.pack(hold))
  redis.call('ZADD', keys.expiry, script.text(script.now + HOLD_RETENTION), 'd:' .. call)
end

-- Remove the owners without a heartbeat for `grace`, and return the others. A heartbeat in the future is of a wrong clock.
local function living_owners(grace)
  local alive, has_died = {[script.owner] = true}, false
  local found = redis.call('HGETALL', keys.owners)
  for at = 1, #found, 2 do
    local name, seen = found[at], tonumber(found[at + 1])
    if name == script.owner or name == 'format' then
      alive[name] = true
    elseif seen < script.now - grace then
      redis.call('HDEL', keys.owners, name)
      has_died = true
    else
      alive[name] = true
      if seen > script.now + grace then redis.call('HSET', keys.owners, name, script.text(script.now)) end
    end
  end
  return alive, has_died
end

-- Charge the reservations whose owner is gone, some in each step: `sweep` is where the next step continues.
local function charge_dead_owners(grace)
  local alive, has_died = living_owners(grace)
  local found = redis.call('HMGET', keys.meta, 'sweep', 'passes')
  local cursor, passes = found[1] or '0', tonumber(found[2] or 0)
  if has_died then passes = cursor == '0' and 1 or 2 end
  if passes == 0 then return end
  local page = redis.call('HSCAN', keys.holds, cursor, 'COUNT', MOST_CHARGED)
  for at = 1, #page[2], 2 do
    local call, hold = page[2][at], page[2][at + 1]
    if call ~= 'format' then
      hold = cmsgpack.unpack(hold)
      if hold[1] ~= '' and not alive[hold[1]] then charge_hold(call, hold) end
    end
  end
  if page[1] == '0' then passes = passes - 1 end
  redis.call('HSET', keys.meta, 'sweep', page[1], 'passes', passes)
end

-- Arguments: grace, whether the owner is recorded, number of the last notice that it has seen or -1.
-- Result: number of the last notice, then the notices after the given one.
function operations.heartbeat(operation)
  -- The first write may free memory, so a full server allows the others.
  redis.call('HDEL', keys.owners, operation[3] and script.owner or '')
  if operation[3] then redis.call('HSET', keys.owners, script.owner, script.text(script.now)) end
  operations.replace_lost_keys()
  charge_dead_owners(operation[2])
  operations.expire(MOST_EXPIRED)
  operations.expire_entries(MOST_EXPIRED)
  return operations.notices_since(operation[4])
end

-- Check that the server can count: this write needs memory.
function operations.ping()
  redis.call('HSET', keys.meta, 'pinged', script.text(script.now))
  return true
end
