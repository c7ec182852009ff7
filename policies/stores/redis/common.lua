-- What all scripts share.  KEYS[1] is the hash tag of all keys: they are on one node of a cluster, because a call may claim
-- from limits of its tenant and from global ones in one operation.  Times are microseconds, by the server's own clock.
-- The names of keys and fields are the storage format:
--
--   c:START:KEY  a calendar counter: s spent, h reserved, e end of the window
--   s:KEY        a sliding counter: t total, n time of its newest entry;  e:KEY its entries "first:last:amount", oldest first
--   h:CALL       a reservation: o owner, and what each part took;  x:CALL a call that has ended;  o:OWNER calls of an owner
--   w            owners by their last heartbeat;  a  calendar counters by their end;  n:GROUP  the counters of a group of
--                identities by their end
--   k:KEY        an entry "end:value", expiring;  k  the keys of entries by their end
local P = KEYS[1] .. ':'
local SLIDING, LARGEST, HOUR, ENDED_MS = -1, 9007199254740991, 3600000000, 60000

local function current_time(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function whole(number) return string.format('%.0f', number) end

local function calendar_key(start, counter) return P .. 'c:' .. whole(start) .. ':' .. counter end

-- Turn what is reserved in a calendar counter into what is spent.  A counter that has expired is not created again.
local function charge(entry, spent)
  local key = calendar_key(entry.start, entry.counter)
  if redis.call('EXISTS', key) == 0 then return end
  redis.call('HINCRBY', key, 'h', whole(0 - entry.amount))
  local total = tonumber(redis.call('HGET', key, 's')) + spent
  redis.call('HSET', key, 's', whole(math.min(total, LARGEST)))
end

-- Subtract what was reserved from its entry in a sliding counter, unless that has expired.
local function give_back(entry)
  local list = P .. 'e:' .. entry.counter
  local prefix = whole(entry.first) .. ':'
  for at, logged in ipairs(redis.call('LRANGE', list, 0, -1)) do
    if string.sub(logged, 1, #prefix) == prefix then
      local last, amount = string.match(logged, ':(%d+):(%d+)$')
      redis.call('HINCRBY', P .. 's:' .. entry.counter, 't', whole(0 - entry.amount))
      if tonumber(amount) > entry.amount then
        redis.call('LSET', list, at - 1, prefix .. last .. ':' .. whole(tonumber(amount) - entry.amount))
      else
        redis.call('LREM', list, 1, logged)
      end
      return
    end
  end
end

-- End a reservation: give all of it back, or charge it.  A charge fills the parts one after the other, each up to its
-- amount; an excess is charged to the first part.
local function finish(call, charges, refund, release)
  local fields = redis.call('HGETALL', P .. 'h:' .. call)
  redis.call('SET', P .. 'x:' .. call, '', 'PX', ENDED_MS)
  if #fields == 0 then return 0 end
  redis.call('DEL', P .. 'h:' .. call)
  local parts = {}
  for at = 1, #fields, 2 do
    if fields[at] == 'o' then
      redis.call('SREM', P .. 'o:' .. fields[at + 1], call)
    else
      parts[#parts + 1] = {tonumber(fields[at]), fields[at + 1]}
    end
  end
  table.sort(parts, function(one, other) return one[1] < other[1] end)
  local keys, by_key = {}, {}
  for _, part in ipairs(parts) do
    for _, took in ipairs(cmsgpack.unpack(part[2])[2]) do
      local entry = {key = took[1], counter = took[2], start = took[3], first = took[4], amount = took[5]}
      if entry.start == SLIDING then
        if release and entry.amount > 0 then give_back(entry) end
      else
        if not by_key[entry.key] then
          keys[#keys + 1] = entry.key
          by_key[entry.key] = {held = 0}
        end
        table.insert(by_key[entry.key], entry)
        by_key[entry.key].held = by_key[entry.key].held + entry.amount
      end
    end
  end
  for _, key in ipairs(keys) do
    local held = by_key[key].held
    local spent = charges[key] or held
    if release then spent = 0 elseif not refund then spent = math.max(spent, held) end
    local excess, rest = math.max(0, spent - held), math.min(spent, held)
    for _, entry in ipairs(by_key[key]) do
      local share = math.min(rest, entry.amount)
      rest = rest - share
      charge(entry, share + excess)
      excess = 0
    end
  end
  return 1
end

-- Charge the reservations of owners without a heartbeat for `grace`: at most 2 owners and 200 calls of each, so that no script
-- runs for long.
local function charge_dead_owners(now, grace, owner)
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', P .. 'w', '-inf', '(' .. whole(now - grace), 'LIMIT', 0, 2)) do
    if dead ~= owner then
      local calls = redis.call('SRANDMEMBER', P .. 'o:' .. dead, 200)
      for _, call in ipairs(calls) do finish(call, {}, true, false) end
      if redis.call('SCARD', P .. 'o:' .. dead) == 0 then redis.call('ZREM', P .. 'w', dead) end
    end
  end
end
