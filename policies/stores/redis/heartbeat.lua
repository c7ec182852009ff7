-- Say that an owner lives, and charge the holds of those who do not.  ARGV: now or '', owner, grace.  Returns now.
local now = moment(ARGV[1])
if ARGV[2] ~= '' then redis.call('ZADD', P .. 'w', whole(now), ARGV[2]) end
charge_the_dead(now, tonumber(ARGV[3]), ARGV[2])
redis.call('ZREMRANGEBYSCORE', P .. 'a', '-inf', whole(now - HOUR))
return now
