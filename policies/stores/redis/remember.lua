-- Keep entries.  ARGV: now or '', milliseconds to keep them, most entries in all, expired ones to remove; then key and value of
-- each.  The value is stored behind the time of its expiry, because the given clock may not be the server's.
local now, keep, most, expired = current_time(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local index, ends = P .. 'k', whole(now + keep * 1000)
for at = 5, #ARGV, 2 do
  redis.call('SET', P .. 'k:' .. ARGV[at], ends .. ':' .. ARGV[at + 1], 'PX', keep)
  redis.call('ZADD', index, ends, ARGV[at])
end
local function remove(members)
  for _, member in ipairs(members) do
    redis.call('DEL', P .. 'k:' .. member)
    redis.call('ZREM', index, member)
  end
end
local added = (#ARGV - 4) / 2
remove(redis.call('ZRANGEBYSCORE', index, '-inf', whole(now), 'LIMIT', 0, added + expired))
local excess = math.min(redis.call('ZCARD', index) - most, added + expired)
if excess > 0 then remove(redis.call('ZRANGE', index, 0, excess - 1)) end
if redis.call('PTTL', index) < keep then redis.call('PEXPIRE', index, keep) end
return 1
