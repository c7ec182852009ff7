-- The claims of a call: which counter each is counted in, whether they fit, and with which ceiling.

local function named_claim(list)
  local claim = {
    field = list[1], start = list[2], ends = list[3], limit = list[4], base = list[5], per_token = list[6], scale = list[7],
    floor = list[8], max_identities = list[9], group = list[10], overflow = list[11]
  }
  claim.is_sliding = claim.start < 0
  return claim
end

local function key_of(field) return sub(field, find(field, ':', 1, true) + 1) end

-- amount / divisor, rounded up; exact, which the quotient of two doubles is not.
local function rounded_up(amount, divisor)
  if divisor == 1 then return amount end
  local rest = math.fmod(amount, divisor)
  return (amount - rest) / divisor + (rest > 0 and 1 or 0)
end

local function is_current(claim) return claim.is_sliding or (now >= claim.start and now < claim.ends) end

-- Point a claim without a counter at a new one of its group, or at the overflow counter that the rest of the group shares. An
-- identity in a sliding overflow counter stays there until that is empty, because a new counter would give it a fresh limit.
-- `make_room` is called if the group is full; it may remove counters that have expired.
local function assign_counter(claim, make_room)
  if claim.is_sliding then
    read_counters({claim.overflow})
    local overflow = counters[claim.overflow]
    if not overflow.is_new then advance_ring(overflow, claim.ends) end
    claim.stays = not overflow.is_new and overflow.total > 0
  end
  local is_full = tonumber(call('HGET', GROUPS, claim.group) or 0) >= claim.max_identities
  if is_full and not claim.stays and make_room then
    make_room()
    is_full = tonumber(call('HGET', GROUPS, claim.group) or 0) >= claim.max_identities
  end
  if is_full or claim.stays then
    claim.counted_as, claim.field = claim.field, claim.overflow
    read_counters({claim.field})
  else
    claim.joins = claim.group
  end
end

-- Set the counter of each claim, with what is used of it now. Returns whether no two claims have the same.
local function find_counters(claims, make_room)
  local fields, seen, is_distinct = {}, {}, true
  for at, claim in ipairs(claims) do fields[at] = claim.field end
  read_counters(fields)
  for _, claim in ipairs(claims) do
    if claim.max_identities > 0 and counters[claim.field].is_new then assign_counter(claim, make_room) end
    local counter = counters[claim.field]
    claim.counter = counter
    if claim.is_sliding then advance_ring(counter, claim.ends) end
    is_distinct = is_distinct and not seen[counter]
    seen[counter] = true
  end
  return is_distinct
end

local function used_of(claim)
  return claim.is_sliding and claim.counter.total or claim.counter.spent + claim.counter.held
end

-- What all claims on the counter of `claim` need together: the base, and the amount per token.
local function needs_together(claims, claim, is_distinct)
  if is_distinct then return claim.base, claim.per_token end
  local base, per_token = 0, 0
  for _, other in ipairs(claims) do
    if other.counter == claim.counter then base, per_token = base + other.base, per_token + other.per_token end
  end
  return base, per_token
end

-- The highest ceiling with which all claims fit; or nil.
local function fitting_ceiling(claims, ceiling, is_distinct)
  local highest = ceiling
  for _, claim in ipairs(claims) do
    local base, per_token = needs_together(claims, claim, is_distinct)
    local left = claim.limit - used_of(claim) - base
    if left < 0 then return nil end
    if per_token > 0 then
      local fits = min(ceiling, floor(left * claim.scale / per_token))
      if fits > 0 and rounded_up(per_token * fits, claim.scale) > left then fits = fits - 1 end
      if fits < min(claim.floor, ceiling) then return nil end
      highest = min(highest, fits)
    end
  end
  return highest
end

local function fits_at(claim, needed)
  if claim.is_sliding then return ring_fits_at(claim.counter, needed, claim.limit) end
  return claim.ends
end

-- The index of the claim that refuses the call for longest, what it needs, and when that fits. A claim that never fits comes
-- first, then one whose limit is spent (the one that resets last), then one whose limit is held; of equal ones the first.
local function longest_refusal(claims, ceiling, is_distinct)
  local best, best_rank, best_wait, best_needed, best_resets
  for at, claim in ipairs(claims) do
    local base, per_token = needs_together(claims, claim, is_distinct)
    local needed = base + rounded_up(per_token * min(claim.floor, ceiling), claim.scale)
    local used = used_of(claim)
    if used + needed > claim.limit then
      local spent = claim.is_sliding and used or claim.counter.spent
      local rank = needed > claim.limit and 2 or spent + needed > claim.limit and 1 or 0
      local resets = fits_at(claim, needed)
      local wait = rank == 1 and resets or 0
      if not best or rank > best_rank or (rank == best_rank and wait > best_wait) then
        best, best_rank, best_wait, best_needed, best_resets = at, rank, wait, needed, resets
      end
    end
  end
  return best, best_needed, best_resets
end
