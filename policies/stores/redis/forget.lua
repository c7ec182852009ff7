-- Remove entries.  ARGV: their keys.
for _, key in ipairs(ARGV) do
  redis.call('DEL', P .. 'k:' .. key)
  redis.call('ZREM', P .. 'k', key)
end
return 1
