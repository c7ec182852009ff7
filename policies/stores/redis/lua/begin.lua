-- Begin a call of the script. ARGV[1] is a MessagePack list of operations, each [name, argument, ...]. The first one is
-- [begin, owner, time or nil for the clock of the server, whether a reservation also records the heartbeat of the owner].
local batch = cmsgpack.unpack(ARGV[1])
script.owner, script.now, script.beats = batch[1][2], batch[1][3], batch[1][4]
if not script.now then
  local time = redis.call('TIME')
  script.now = tonumber(time[1]) * script.SECOND + tonumber(time[2])
end
local stored = redis.call('HMGET', keys.counters, 'format', 'generation', 'period')
local is_ready = stored[1] == script.FORMAT and stored[2] and true
script.period = tonumber(stored[3])

-- Which operations the batch has: the functions of others are not created.
local reserves, settles, has_others = false, false, not is_ready
for at = 2, #batch do
  local name = batch[at][1]
  if name == 'reserve' then
    reserves = true
  elseif name == 'settle' then
    settles = true
  else
    has_others = true
  end
end
