-- Heartbeats of the processes, and the reservations of those that died. They are charged in full, because their calls may have
-- cost that much. They are kept for a day, so that a process that was only suspended can correct that.
local MOST_EXPIRED, MOST_CHARGED = 100, 200

local function charge_hold(call_id, hold)
  local fields = {}
  for at = 2, #hold do
    for index = 4, #hold[at] do fields[#fields + 1] = hold[at][index][1] end
  end
  read_counters(fields)
  for at = 2, #hold do
    local part = hold[at]
    for index = 4, part[3] and 0 or #part do
      local entry = part[index]
      if sub(entry[1], 1, 2) ~= 's:' then charge_entry(entry, entry[3], false) end
    end
    part[3] = true
  end
  hold[1] = ''
  call('HSET', HOLDS, call_id, pack(hold))
  call('ZADD', EXPIRY, whole(now + HOLD_RETENTION), 'd:' .. call_id)
end

-- Remove the owners without a heartbeat for `grace`, and return the others. A heartbeat in the future is of a wrong clock.
local function living_owners(grace)
  local alive, has_died = {[owner] = true}, false
  local found = call('HGETALL', OWNERS)
  for at = 1, #found, 2 do
    local name, seen = found[at], tonumber(found[at + 1])
    if name ~= 'format' and name ~= owner and seen < now - grace then
      call('HDEL', OWNERS, name)
      has_died = true
    else
      alive[name] = true
      if name ~= 'format' and seen > now + grace then call('HSET', OWNERS, name, whole(now)) end
    end
  end
  return alive, has_died
end

-- Charge the reservations whose owner is gone, some in each step: `sweep` is where the next step continues.
local function charge_dead_owners(grace)
  local alive, has_died = living_owners(grace)
  local found = call('HMGET', META, 'sweep', 'passes')
  local cursor, passes = found[1] or '0', tonumber(found[2] or 0)
  if has_died then passes = cursor == '0' and 1 or 2 end
  if passes == 0 then return end
  local page = call('HSCAN', HOLDS, cursor, 'COUNT', MOST_CHARGED)
  for at = 1, #page[2], 2 do
    local hold = unpack_message(page[2][at + 1])
    if hold[1] ~= '' and not alive[hold[1]] then charge_hold(page[2][at], hold) end
  end
  if page[1] == '0' then passes = passes - 1 end
  call('HSET', META, 'sweep', page[1], 'passes', passes)
end

-- Arguments: grace, whether the owner is recorded, number of the last notice that it has seen or -1.
-- Result: number of the last notice, then the notices after the given one.
function operations.heartbeat(operation)
  call('HDEL', OWNERS, owner)  -- the first write: it frees memory, so a full server allows the others
  if operation[3] then call('HSET', OWNERS, owner, whole(now)) end
  charge_dead_owners(operation[2])
  operations.expire(MOST_EXPIRED)
  operations.expire_entries(MOST_EXPIRED)
  return operations.notices_since(operation[4])
end

-- Check that the server can count: this write needs memory.
function operations.ping()
  call('HSET', META, 'pinged', whole(now))
  return true
end
