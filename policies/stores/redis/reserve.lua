-- Reserve all claims with the highest ceiling that fits, or none of them.
-- ARGV: now or '', owner, call, part, ceiling, number of claims; for each its key, start of the window (or -1), end of the
-- window (or length of the sliding one), limit, base, per_token, scale, floor, bucket (of a sliding window, or 0),
-- max_identities (or 0), group key, overflow key.
-- Calendar claims of a further part are counted in the counters and windows that the first part took from.
-- Returns 0, now, ceiling, index of the refused claim (from 0, or -1), then used, held, needed and resets_at of each claim;
-- or 1, now if a window is not the current one; or 2, now if the call has ended.
local now, owner, call, part = current_time(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local ceiling, count = tonumber(ARGV[5]), tonumber(ARGV[6])
local FIRST, FIELDS = 7, 12

local function claim_at(index)
  local at = FIRST + index * FIELDS
  local claim = {key = ARGV[at], counter = ARGV[at], group = ARGV[at + 10], overflow = ARGV[at + 11]}
  claim.start, claim.ends, claim.limit = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  claim.base, claim.per_token, claim.scale = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  claim.floor, claim.bucket, claim.max_identities = tonumber(ARGV[at + 7]), tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9])
  claim.used, claim.held, claim.oldest, claim.time, claim.first = 0, 0, 0, now, now
  return claim
end

local function needs(claim, tokens) return claim.base + math.ceil(claim.per_token * tokens / claim.scale) end

local function parsed(logged)
  local first, last, amount = string.match(logged, '^(%d+):(%d+):(%d+)$')
  return tonumber(first), tonumber(last), tonumber(amount)
end

local function read_sliding(claim)
  local row, list = P .. 's:' .. claim.counter, P .. 'e:' .. claim.counter
  local found = redis.call('HMGET', row, 't', 'n')
  claim.used, claim.time = tonumber(found[1] or 0), math.max(now, tonumber(found[2] or 0))
  claim.first = claim.time
  local oldest = claim.used > 0 and redis.call('LINDEX', list, 0)
  local before = claim.used
  while oldest do
    local _, last, amount = parsed(oldest)
    claim.oldest = last
    if last > claim.time - claim.length then break end
    redis.call('LPOP', list)
    claim.used = claim.used - amount
    oldest = redis.call('LINDEX', list, 0)
  end
  if claim.used < before then redis.call('HSET', row, 't', whole(claim.used)) end
  if claim.used > 0 and claim.bucket > 0 then
    local newest = parsed(redis.call('LINDEX', list, -1))
    if claim.time - newest < claim.bucket then claim.first = newest end
  end
  claim.ends = claim.time + claim.length
end

-- Whether the overflow counter of a sliding window counts anything: its identities stay there until it is empty, because a
-- counter of their own would give them a fresh limit.
local function overflow_in_use(claim)
  if claim.start ~= SLIDING then return false end
  local found = redis.call('HMGET', P .. 's:' .. claim.overflow, 't', 'n')
  return tonumber(found[1] or 0) > 0 and tonumber(found[2]) + claim.length > now
end

local function read(claim)
  if claim.start == SLIDING then claim.length = claim.ends end
  if claim.max_identities > 0 then
    local group = P .. 'n:' .. claim.group .. (claim.start == SLIDING and '' or ':' .. whole(claim.start))
    local known = redis.call('ZSCORE', group, claim.key)
    if known and tonumber(known) > now then
      claim.joins = group
    else
      redis.call('ZREMRANGEBYSCORE', group, '-inf', whole(now))
      local joins = redis.call('ZCARD', group) < claim.max_identities and not overflow_in_use(claim)
      if joins then claim.joins = group else claim.counter = claim.overflow end
    end
  end
  if claim.start == SLIDING then return read_sliding(claim) end
  local found = redis.call('HMGET', calendar_key(claim.start, claim.counter), 's', 'h')
  claim.new = not found[1]
  claim.held = tonumber(found[2] or 0)
  claim.used = tonumber(found[1] or 0) + claim.held
end

local function fit(claims)
  local highest = ceiling
  for at, claim in ipairs(claims) do
    local left, per_token = claim.limit - claim.used, 0
    for _, other in ipairs(claims) do
      if other.counter == claim.counter then left, per_token = left - other.base, per_token + other.per_token end
    end
    if left < 0 then return ceiling, at - 1 end
    if per_token > 0 then
      local fits = math.min(ceiling, math.floor(left * claim.scale / per_token))
      if fits > 0 and math.ceil(per_token * fits / claim.scale) > left then fits = fits - 1 end
      if fits < math.min(claim.floor, ceiling) then return ceiling, at - 1 end
      highest = math.min(highest, fits)
    end
  end
  return highest, -1
end

local function take(claim, amount)
  local key, left = calendar_key(claim.start, claim.counter), claim.ends - now
  redis.call('HINCRBY', key, 'h', whole(amount))
  if claim.new then
    redis.call('HSET', key, 's', '0', 'e', whole(claim.ends))
    redis.call('PEXPIRE', key, whole((left + math.min(claim.ends - claim.start, HOUR)) / 1000 + 1))
    redis.call('ZADD', P .. 'a', whole(claim.ends), whole(claim.start) .. ':' .. claim.counter)
  end
end

local function slide(claim, amount)
  local row, list = P .. 's:' .. claim.counter, P .. 'e:' .. claim.counter
  local last = redis.call('LINDEX', list, -1)
  local first, _, known = parsed(last or '0:0:0')
  local logged = whole(claim.first) .. ':' .. whole(claim.time) .. ':'
  if last and first == claim.first then
    redis.call('LSET', list, -1, logged .. whole(known + amount))
  else
    redis.call('RPUSH', list, logged .. whole(amount))
  end
  redis.call('HINCRBY', row, 't', whole(amount))
  redis.call('HSET', row, 'n', whole(claim.time))
  local life = whole((claim.ends - now) / 1000 + 1)
  redis.call('PEXPIRE', row, life)
  redis.call('PEXPIRE', list, life)
end

-- When a counter will have room for an amount; where it never has, when it is empty.
local function fits_at(claim, needed)
  if claim.start ~= SLIDING then return claim.ends end
  local left, at = claim.used, now
  if left == 0 then return now end
  for _, logged in ipairs(redis.call('LRANGE', P .. 'e:' .. claim.counter, 0, -1)) do
    local _, last, amount = parsed(logged)
    left, at = left - amount, last + claim.length
    if left + needed <= claim.limit then break end
  end
  return math.max(now, at)
end

-- The least that a claim needs, together with the others on its counter.
local function least(claims, claim)
  local base, per_token = 0, 0
  for _, other in ipairs(claims) do
    if other.counter == claim.counter then base, per_token = base + other.base, per_token + other.per_token end
  end
  return base + math.ceil(per_token * math.min(claim.floor, ceiling) / claim.scale)
end

-- The index of the claim that refuses the call for longest: one that never fits, else one whose limit is spent (the one that
-- resets last), else one whose limit is held; of equal ones the first. `first` is the first that does not fit.
local function longest_refusal(claims, first)
  local chosen, best, latest = first, -1, 0
  for at, claim in ipairs(claims) do
    local needed = least(claims, claim)
    if claim.used + needed > claim.limit or at - 1 == first then
      local severity, waits_until = 0, 0
      if needed > claim.limit then
        severity = 2
      elseif claim.used - claim.held + needed > claim.limit then
        severity, waits_until = 1, fits_at(claim, needed)
      end
      if severity > best or (severity == best and waits_until > latest) then
        chosen, best, latest = at - 1, severity, waits_until
      end
    end
  end
  return chosen
end

local function resets_at(claim)
  if claim.start ~= SLIDING then return claim.ends end
  return claim.used == 0 and now or math.max(now, claim.oldest + claim.length)
end

local function answer(claims, granted, refused)
  local reply = {0, now, granted, refused}
  for at, claim in ipairs(claims) do
    local needed = at - 1 == refused and least(claims, claim) or 0
    reply[#reply + 1] = claim.used
    reply[#reply + 1] = claim.held
    reply[#reply + 1] = needed
    reply[#reply + 1] = at - 1 == refused and fits_at(claim, needed) or resets_at(claim)
  end
  return reply
end

-- The counter and the window of each calendar claim of the first part, by the claim's key. One whose counter has expired is
-- left out: it is counted in the current window.
local function first_part(packed)
  local found = {}
  for _, took in ipairs(packed and cmsgpack.unpack(packed)[2] or {}) do
    if took[3] ~= SLIDING then
      local ends = redis.call('HGET', calendar_key(took[3], took[2]), 'e')
      if ends then found[took[1]] = {counter = took[2], start = took[3], ends = tonumber(ends)} end
    end
  end
  return found
end

local reservation = P .. 'h:' .. call
if redis.call('EXISTS', P .. 'x:' .. call) == 1 or (part ~= '0' and redis.call('EXISTS', reservation) == 0) then
  return {2, now}
end
local first = part == '0' and {} or first_part(redis.call('HGET', reservation, '0'))
local claims = {}
for index = 0, count - 1 do
  local claim = claim_at(index)
  local taken = claim.start ~= SLIDING and first[claim.key]
  if taken then
    claim.counter, claim.start, claim.ends, claim.max_identities = taken.counter, taken.start, taken.ends, 0
  elseif claim.start ~= SLIDING and (now < claim.start or now >= claim.ends) then
    return {1, now}
  end
  claims[#claims + 1] = claim
end
for _, claim in ipairs(claims) do read(claim) end
local known = redis.call('HGET', reservation, part)
if known then return answer(claims, cmsgpack.unpack(known)[1], -1) end
local granted, refused = fit(claims)
if refused >= 0 then return answer(claims, ceiling, longest_refusal(claims, refused)) end
local took = {}
for at, claim in ipairs(claims) do
  local amount = needs(claim, granted)
  took[at] = {claim.key, claim.counter, claim.start, claim.first, amount}
  if claim.start ~= SLIDING then take(claim, amount) elseif amount > 0 then slide(claim, amount) end
  if claim.joins and (claim.start ~= SLIDING or amount > 0) then
    redis.call('ZADD', claim.joins, whole(claim.ends), claim.key)
    redis.call('PEXPIRE', claim.joins, whole((claim.ends - now) / 1000 + 1))
  end
  for _, other in ipairs(claims) do
    if other.counter == claim.counter then
      if other.used == 0 then other.oldest = claim.time end
      other.used, other.new = other.used + amount, false
      if claim.start ~= SLIDING then other.held = other.held + amount end
    end
  end
end
redis.call('HSET', reservation, part, cmsgpack.pack({granted, took}), 'o', owner)
redis.call('SADD', P .. 'o:' .. owner, call)
redis.call('ZADD', P .. 'w', whole(now), owner)
return answer(claims, granted, -1)
