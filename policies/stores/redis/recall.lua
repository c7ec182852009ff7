-- Return the values of entries, nil for one that is missing or has expired.  ARGV: now or '', then the keys.
local now, found = current_time(ARGV[1]), {}
for at = 2, #ARGV do
  local kept = redis.call('GET', P .. 'k:' .. ARGV[at])
  local colon = kept and string.find(kept, ':', 1, true)
  found[at - 1] = colon and tonumber(string.sub(kept, 1, colon - 1)) > now and string.sub(kept, colon + 1)
end
return found
