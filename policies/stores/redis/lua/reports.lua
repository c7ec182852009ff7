-- Reports, which change nothing.

-- Arguments: claims, as in reserve.lua. Result: 0, then used, held and resets_at of each.
function operations.standings(operation)
  local claims, reply = fitting.find_claims(operation, 2), {0}
  if not claims then return {reserve.OTHER_WINDOW} end
  for _, claim in ipairs(claims) do
    local used, resets = claim.counter.spent + claim.counter.held, claim.ends
    if claim.is_sliding and used + claim.base > claim.limit then
      resets = ring.fits_at(claim.counter, claim.base, claim.limit)
    elseif claim.is_sliding then
      resets = ring.resets_at(claim.counter)
    end
    for _, each in ipairs({used, claim.counter.held, resets}) do table.insert(reply, each) end
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
  local found, fields = redis.call('ZRANGE', keys.expiry, first, last), {}
  for _, member in ipairs(found) do
    if string.find(member, '^%d+:') then fields[#fields + 1] = member end
  end
  counters.read(fields)
  local reply, is_minute = {#found}, operation[2] == 1
  for _, field in ipairs(fields) do
    local start, key = string.match(field, '^(%d+):(.*)$')
    local counter, began = counters.known[field], tonumber(start)
    local is_open = began <= script.now and script.now < counter.ends
    if is_open and (counter.ends - began <= script.MINUTE) == is_minute then
      for _, each in ipairs({key, counter.spent, counter.held, counter.ends}) do table.insert(reply, each) end
    end
  end
  return reply
end
