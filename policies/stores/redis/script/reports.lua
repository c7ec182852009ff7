-- Reports, which change nothing.

-- Arguments: claims, as in reserve.lua. Result: 0, then used, held and resets_at of each.
function operations.standings(operation)
  local claims = {}
  for at, list in ipairs(operation[2]) do
    claims[at] = named_claim(list)
    if not is_current(claims[at]) then return OTHER_WINDOW end
  end
  find_counters(claims)
  local reply = {0}
  for _, claim in ipairs(claims) do
    local used = used_of(claim)
    local resets = claim.ends
    if claim.is_sliding then
      resets = used + claim.base > claim.limit and ring_fits_at(claim.counter, claim.base, claim.limit)
        or ring_resets_at(claim.counter)
    end
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = used, claim.is_sliding and 0 or claim.counter.held, resets
  end
  return reply
end

-- The calendar counters of open windows, by pages. They are the last ones to expire of their kind.
-- Arguments: 1 for windows of a minute, 0 for others; how many to skip, and how many to read at most.
-- Result: how many were read, then key, spent, held and end of each that is open.
function operations.accounts(operation)
  local low, high = now + RETENTION, '+inf'
  if operation[2] == 1 then
    low = now + MINUTE_RETENTION
    high = whole(low + MINUTE)
  end
  local fields = call('ZRANGEBYSCORE', EXPIRY, '(' .. whole(low), high, 'LIMIT', operation[3], operation[4])
  local reply = {#fields}
  if #fields == 0 then return reply end
  for at, value in ipairs(call('HMGET', COUNTERS, unpack(fields))) do
    local start, key = string.match(fields[at], '^(%d+):(.*)$')
    start = tonumber(start)
    if value and start and start <= now then
      local counter = decode_counter(fields[at], value)
      if counter.ends > now and (counter.ends - start <= MINUTE) == (operation[2] == 1) then
        for _, each in ipairs({key, counter.spent, counter.held, counter.ends}) do reply[#reply + 1] = each end
      end
    end
  end
  return reply
end
