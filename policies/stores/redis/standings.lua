-- Read the standings of limits, and change nothing.
-- ARGV: now or '', number of claims; for each its key, start of the window (or -1), end of the window (or length of the sliding
-- one), limit, base, max_identities (or 0), group key, overflow key.
-- Returns 0, now, then used, held and resets_at of each claim; or 1, now if a window is not the current one.
local now, count = current_time(ARGV[1]), tonumber(ARGV[2])
local FIRST, FIELDS = 3, 8

local function read_claim(index)
  local at = FIRST + index * FIELDS
  local claim = {key = ARGV[at], counter = ARGV[at], group = ARGV[at + 6], overflow = ARGV[at + 7]}
  claim.start, claim.ends, claim.limit = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  claim.base, claim.max_identities = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  return claim
end

-- Whether the identities that are in the overflow counter of a sliding window stay there: see reserve.lua.
local function stays_in_overflow(claim)
  if claim.start ~= SLIDING then return false end
  local found = redis.call('HMGET', P .. 's:' .. claim.overflow, 't', 'n')
  return tonumber(found[1] or 0) > 0 and tonumber(found[2]) + claim.ends > now
end

-- Point the claim at the overflow counter of its group if a call would be counted there.
local function find_counter(claim)
  if claim.max_identities == 0 then return end
  local group = P .. 'n:' .. claim.group .. (claim.start == SLIDING and '' or ':' .. whole(claim.start))
  local known = redis.call('ZSCORE', group, claim.key)
  if known and tonumber(known) > now then return end
  local size = redis.call('ZCOUNT', group, '(' .. whole(now), '+inf')
  if size >= claim.max_identities or stays_in_overflow(claim) then claim.counter = claim.overflow end
end

local function read_sliding(claim)
  local found = redis.call('HMGET', P .. 's:' .. claim.counter, 't', 'n')
  local total, length = tonumber(found[1] or 0), claim.ends
  if total == 0 then return 0, now end
  local since = math.max(now, tonumber(found[2] or 0)) - length
  local list = P .. 'e:' .. claim.counter
  local oldest = tonumber(string.match(redis.call('LINDEX', list, 0), ':(%d+):'))
  if oldest > since and total + claim.base <= claim.limit then return total, math.max(now, oldest + length) end
  local used, left, resets_at = total, total, now
  for _, logged in ipairs(redis.call('LRANGE', list, 0, -1)) do  -- the expired ones come first
    local last, amount = string.match(logged, ':(%d+):(%d+)$')
    last, left = tonumber(last), left - tonumber(amount)
    if last <= since then
      used = left
    else
      resets_at = last + length
      if left + claim.base <= claim.limit then break end
    end
  end
  return used, math.max(now, resets_at)
end

local reply = {0, now}
for index = 0, count - 1 do
  local claim = read_claim(index)
  if claim.start ~= SLIDING and (now < claim.start or now >= claim.ends) then return {1, now} end
  find_counter(claim)
  local used, held, resets_at = 0, 0, claim.ends
  if claim.start == SLIDING then
    used, resets_at = read_sliding(claim)
  else
    local found = redis.call('HMGET', calendar_key(claim.start, claim.counter), 's', 'h')
    held = tonumber(found[2] or 0)
    used = tonumber(found[1] or 0) + held
  end
  reply[#reply + 1] = used
  reply[#reply + 1] = held
  reply[#reply + 1] = resets_at
end
return reply
