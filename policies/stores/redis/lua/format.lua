-- The format of the store, and its generation. These operations and those of conversion.lua run before the store is ready.
local LOST_GROUPS = 'the numbers of identities were evicted or lost: groups may have twice as many counters until the earlier ones expire; '
  .. 'set maxmemory-policy noeviction, and give the server more memory'
operations.before_ready = {inspect = true, take_over = true, convert = true, create = true}

-- Return the format or false; then, if the store has format 1, the time, and owner and last heartbeat of its processes.
function operations.inspect()
  local format = redis.call('HGET', keys.meta, 'format')
  if format then return {format} end
  local has_owners = redis.call('TYPE', keys.owners).ok == 'zset'
  if not has_owners and redis.call('EXISTS', string.sub(keys.meta, 1, -2) .. 'a') == 0 then return {false} end
  return {false, script.now, unpack(has_owners and redis.call('ZRANGE', keys.owners, -100, -1, 'WITHSCORES') or {})}
end

-- Begin the conversion: processes of format 1 that still run fail from now on, because their keys have other types.
function operations.take_over()
  for _, key in ipairs({keys.owners, keys.entries}) do
    if redis.call('TYPE', key).ok == 'zset' then redis.call('UNLINK', key) end
  end
  redis.call('UNLINK', string.sub(keys.meta, 1, -2) .. 'a')
  redis.call('HSET', keys.owners, 'format', script.FORMAT)
  return true
end

-- All keys have a member "format", so that none is ever missing: while its slot moves to another node, a cluster executes no
-- script of whose keys some exist and some do not.
local function add_members(generation)
  redis.call('HSET', keys.meta, 'format', script.FORMAT, 'generation', generation)
  redis.call('HSET', keys.counters, 'generation', generation)
  for _, key in ipairs({keys.counters, keys.holds, keys.owners, keys.groups, keys.entries, KEYS[9], KEYS[10]}) do
    redis.call('HSET', key, 'format', script.FORMAT)
  end
  for _, key in ipairs({keys.expiry, keys.entry_ends}) do redis.call('ZADD', key, '+inf', 'format') end
end

-- Make the store ready. Argument: the id of its generation, if it has none. The counters have it too: if they are lost, it ends, and
-- what belongs to them is removed. Then settlements find no reservation, which their callers can report.
function operations.create(operation)
  local generation = redis.call('HGET', keys.meta, 'generation')
  if not generation or redis.call('HGET', keys.counters, 'generation') ~= generation then
    if generation or redis.call('HGET', keys.holds, 'format') or redis.call('HGET', keys.groups, 'format') then
      redis.call('UNLINK', keys.counters, keys.holds, keys.expiry, keys.groups)
    end
    generation = operation[2]
  end
  add_members(generation)
  return generation
end

-- A server that evicts keys may remove one of them alone. Without its reservations the counters would hold them until their windows
-- end, and without what expires they would never be removed. So the generation ends, and the next operation makes the store anew.
-- Any other key is only created again. Without the sizes of groups all groups get new names, and keep their counters.
function operations.replace_lost_keys()
  local generation = redis.call('HGET', keys.counters, 'generation')
  if not redis.call('HGET', keys.holds, 'format') or not redis.call('ZSCORE', keys.expiry, 'format') then
    redis.call('HDEL', keys.counters, 'generation')
    return
  end
  if not redis.call('HGET', keys.groups, 'format') then
    redis.call('HSET', keys.groups, 'lost', script.text(script.now))
    add_members(generation)
    add_notice(LOST_GROUPS)
  elseif redis.call('EXISTS', unpack(KEYS)) < #KEYS or redis.call('HGET', keys.meta, 'generation') ~= generation then
    add_members(generation)
  end
end
