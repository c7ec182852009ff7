-- Record the heartbeat of an owner, and charge the reservations of dead owners.  ARGV: now or '', owner, grace.  Returns now.
-- An empty owner records nothing.
local now = current_time(ARGV[1])
if ARGV[2] ~= '' then redis.call('ZADD', P .. 'w', whole(now), ARGV[2]) end
charge_dead_owners(now, tonumber(ARGV[3]), ARGV[2])
redis.call('ZREMRANGEBYSCORE', P .. 'a', '-inf', whole(now - HOUR))
return now
