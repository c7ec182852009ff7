-- Reports, which change nothing.
parts.reserving()

-- Arguments: claims, as in reserve.lua. Result: 0, then used, held and resets_at of each.
function operations.standings(operation)
  local claims, reply = fitting.named_claims(operation, 2), {0}
  if not fitting.are_current(claims) then return {reserve.OTHER_WINDOW} end
  fitting.find_counters(claims)
  for _, claim in ipairs(claims) do
    local used, resets = fitting.used(claim), claim.ends
    if claim.is_sliding and used + claim.base > claim.limit then
      resets = ring.fits_at(claim.counter, claim.base, claim.limit)
    elseif claim.is_sliding then
      resets = ring.resets_at(claim.counter)
    end
    for _, each in ipairs({used, claim.counter.held or 0, resets}) do table.insert(reply, each) end
  end
  return reply
end

-- The calendar counters of open windows, by pages. They are the last ones to expire of their kind.
-- Arguments: 1 for windows of a minute, 0 for others; how many to skip, and how many to read at most.
-- Result: how many were read, then key, spent, held and end of each that is open.
function operations.accounts(operation)
  local low = script.now + counters.retention(operation[2] == 1 and script.MINUTE or math.huge)
  local high = operation[2] == 1 and script.text(low + script.MINUTE) or '+inf'
  -- By rank, because to skip members by LIMIT takes time for each of them.
  local first = redis.call('ZCOUNT', keys.expiry, '-inf', script.text(low)) + operation[3]
  local last = math.min(redis.call('ZCOUNT', keys.expiry, '-inf', high), first + operation[4]) - 1
  if first > last then return {0} end
  local fields = redis.call('ZRANGE', keys.expiry, first, last)
  local reply = {#fields}
  for at, value in ipairs(redis.call('HMGET', keys.counters, unpack(fields))) do
    local start, key = string.match(fields[at], '^(%d+):(.*)$')
    start = tonumber(start)
    if value and start and start <= script.now then
      local counter = counters.decode(fields[at], value)
      if counter.ends > script.now and (counter.ends - start <= script.MINUTE) == (operation[2] == 1) then
        for _, each in ipairs({key, counter.spent, counter.held, counter.ends}) do table.insert(reply, each) end
      end
    end
  end
  return reply
end
