-- Execute the operations in ARGV[1], a MessagePack list of [name, argument, ...], in their order. The first one is [begin, owner,
-- time or nil for the clock of the server]. The reply is a MessagePack list of results: that of `begin` is [time, generation], or
-- [time] if the store is not ready; then only the operations that make it ready are executed, and the others are false. An
-- operation that fails has the result {error = text}, and no effect on the others.
-- Errors for which no operation of the script can write: they are the error of the whole script.
local ERRORS_OF_SERVER = {READONLY = true, NOREPLICAS = true, MISCONF = true}

local function error_text(problem)
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  return (string.gsub(text, '[^\32-\126]', '?'))
end

local function error_code(text) return string.match(text, '^%-?(%u+) ') or string.match(text, '%-(%u+) ') end

-- Return the results, or nil and an error of the server.
local function run(listed)
  local begin = listed[1]
  owner, now = begin[2], begin[3]
  if not now then
    local time = call('TIME')
    now = tonumber(time[1]) * SECOND + tonumber(time[2])
  end
  local found = call('HMGET', META, 'format', 'generation', 'period')
  local generation = found[2]
  local is_ready = found[1] == FORMAT and generation and call('HGET', COUNTERS, 'generation') == generation
  cleared_period = tonumber(found[3])
  local results = {is_ready and {now, generation} or {now}}
  for at = 2, #listed do
    local operation = listed[at]
    local name, done, result = operation[1], true, false
    if name == 'reserve' and is_ready then
      done, result = pcall(reserve, operation)
    elseif name == 'settle' and is_ready then
      done, result = pcall(settle, operation)
    elseif name == 'release' and is_ready then
      done, result = pcall(release, operation)
    elseif is_ready or rare().before_ready[name] then
      done, result = pcall(rare()[name], operation)
    end
    if not done then
      result = {error = error_text(result)}
      if ERRORS_OF_SERVER[error_code(result.error)] then return nil, result.error end
    end
    results[at] = result
  end
  if has_reserved then
    local seen = tonumber(call('HGET', OWNERS, owner) or 0)
    if math.abs(now - seen) > SECOND then call('HSET', OWNERS, owner, whole(now)) end
  end
  write_counters()
  return results
end

local done, results, problem = pcall(run, unpack_message(ARGV[1]))
if done and results then return pack(results) end
local text = done and problem or error_text(results)
return redis.error_reply((string.gsub(error_code(text) and sub(text, find(text, error_code(text), 1, true), -1) or 'ERR ' .. text, '^%-', '')))
