-- Return key, spent, held and end of open calendar counters.  ARGV: now or '', how many to skip, how many to return at most.
local now, found = current_time(ARGV[1]), {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'a', '(' .. whole(now), '+inf', 'LIMIT', ARGV[2], ARGV[3])) do
  local start, counter = string.match(member, '^(%d+):(.*)$')
  local row = redis.call('HMGET', P .. 'c:' .. member, 's', 'h', 'e')
  if row[1] and tonumber(start) <= now then
    for _, value in ipairs({counter, row[1], row[2], row[3]}) do found[#found + 1] = value end
  else
    for _ = 1, 4 do found[#found + 1] = '' end
  end
end
return found
