-- Execute the operations in ARGV[1], a MessagePack list of [name, argument, ...], in their order. The first one is [begin, owner,
-- time or nil for the clock of the server, whether a reservation also records the heartbeat of the owner]. The reply is a
-- MessagePack list of results. That of `begin` is [time, generation, whether a heartbeat was recorded], or [time] if the store is
-- not ready: then only the operations that make it ready are executed, and the others are false. An operation that fails has the
-- result {error = text}, and no effect on the others. If `begin` has that result, it is the only one, and the batch has failed.
local PARTS_OF_OPERATIONS = {reserve = 'reserving', settle = 'settling', release = 'settling'}

-- Return whether the store is ready, and the result of `begin`.
local function begin(operation)
  script.owner, script.now, script.beats = operation[2], operation[3], operation[4]
  if not script.now then
    local time = redis.call('TIME')
    script.now = tonumber(time[1]) * script.SECOND + tonumber(time[2])
  end
  local found = redis.call('HMGET', keys.counters, 'format', 'generation', 'period')
  script.period = tonumber(found[3])
  if found[1] ~= script.FORMAT or not found[2] then return false, {script.now} end
  return true, {script.now, found[2]}
end

local function execute(listed)
  local is_ready, begun = begin(listed[1])
  local results = {begun}
  for at = 2, #listed do
    local operation = listed[at]
    local name, done, result = operation[1], true, false
    parts[is_ready and PARTS_OF_OPERATIONS[name] or 'rare']()
    if is_ready or operations.before_ready[name] then
      done, result = pcall(operations[name], operation)
      if not done then
        parts.errors()
        result = {error = script.error_of(result)}
        if script.is_of_server(result.error) then error(result.error, 0) end
      end
    end
    results[at] = result
  end
  begun[3] = is_ready and script.has_beaten or nil
  counters.write()
  return cmsgpack.pack(results)
end

local done, reply = pcall(execute, cmsgpack.unpack(ARGV[1]))
if done then return reply end
parts.errors()
local problem = script.error_of(reply)
if script.is_of_server(problem) then return redis.error_reply(problem) end
return cmsgpack.pack({{error = problem}})
