-- Execute the operations in their order. The reply is a MessagePack list of results. That of `begin` is [time, generation, whether a
-- heartbeat was recorded], or [time] if the store is not ready: then only the operations that make it ready are executed, and the
-- others are false. An operation that fails has the result {error = text}, and no effect on the others. If the server cannot write
-- at all, the script fails.
local results = {false}
for at = 2, #batch do
  local operation, done, result = batch[at], true, false
  if is_ready or operations.before_ready[operation[1]] then
    done, result = pcall(operations[operation[1]], operation)
    if not done then
      local text = string.gsub(type(result) == 'table' and result.err or tostring(result), '[^\32-\126]', '?')
      text = string.match(text, '%-(%u%u+ .*)$') or text  -- Redis 6 and older put the place in the script before it
      local code = string.match(text, '^%u+ ')
      if code == 'READONLY ' or code == 'NOREPLICAS ' or code == 'MISCONF ' then error(result, 0) end
      result = {error = text}
    end
  end
  results[at] = result
end
if #counters.changed > 0 and not script.has_written then
  redis.call('HDEL', keys.counters, '')  -- a full server allows writes after one that needs no memory
end
for first = 1, #counters.changed, 100 do
  local written, queued = {}, {}
  for at = first, math.min(#counters.changed, first + 99) do
    local counter = counters.changed[at]
    written[#written + 1] = counter.field
    if counter.is_sliding then
      written[#written + 1] = ring.encode(counter)
    else
      written[#written + 1] = struct.pack(counters.FORMAT, counter.spent, counter.held, counter.ends) .. counter.group
    end
    if counter.is_created then
      queued[#queued + 1] = script.text(counters.expires_at(counter))
      queued[#queued + 1] = counter.field
    end
  end
  redis.call('HSET', keys.counters, unpack(written))
  if #queued > 0 then redis.call('ZADD', keys.expiry, unpack(queued)) end
end
results[1] = {script.now, is_ready and stored[2] or nil, is_ready and script.has_beaten or nil}
return cmsgpack.pack(results)
