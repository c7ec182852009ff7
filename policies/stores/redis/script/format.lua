-- The format of the store, and its generation. These operations and those of conversion.lua run before the store is ready.

operations.before_ready = {inspect = true, take_over = true, convert = true, create = true}

-- Return the format or false; then, if there is none, the time, and owner and last heartbeat of the processes of format 1.
function operations.inspect()
  local format = call('HGET', META, 'format')
  if format or call('TYPE', OWNERS).ok ~= 'zset' then return {format} end
  return {false, now, unpack(call('ZRANGE', OWNERS, -100, -1, 'WITHSCORES'))}
end

-- Begin the conversion: processes of format 1 that still run fail from now on, because their keys have other types.
function operations.take_over()
  for _, key in ipairs({OWNERS, ENTRIES}) do
    if call('TYPE', key).ok == 'zset' then call('UNLINK', key) end
  end
  call('UNLINK', sub(META, 1, -2) .. 'a')
  call('HSET', OWNERS, 'format', FORMAT)
  return true
end

-- Make the store ready. Argument: the id of its generation, if it has none.
function operations.create(operation)
  local generation = call('HGET', META, 'generation')
  if not generation or call('HGET', COUNTERS, 'generation') ~= generation then generation = operation[2] end
  call('HSET', META, 'format', FORMAT, 'generation', generation)
  call('HSET', COUNTERS, 'generation', generation)
  call('HSET', OWNERS, 'format', FORMAT)
  return generation
end
