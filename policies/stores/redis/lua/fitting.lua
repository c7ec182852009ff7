-- The claims of a call: which counter each is counted in, whether they fit, and with which ceiling.

-- The claims in the arguments of an operation from number `first` on. Each has the eleven that are named here, in this order.
function fitting.named_claims(operation, first)
  local claims = {}
  for at = first, #operation, 11 do
    local field, start, ends, limit, base, per_token, scale, floor, max_identities, group, overflow = unpack(operation, at, at + 10)
    claims[#claims + 1] = {
      field = field, start = start, ends = ends, limit = limit, base = base, per_token = per_token, scale = scale, floor = floor,
      max_identities = max_identities, group = group, overflow = overflow, is_sliding = start < 0, counter = false, amount = 0
    }
  end
  return claims
end

-- amount / divisor, rounded up; exact, which the quotient of two doubles is not.
function fitting.rounded_up(amount, divisor)
  if divisor == 1 then return amount end
  local rest = math.fmod(amount, divisor)
  return (amount - rest) / divisor + (rest > 0 and 1 or 0)
end

-- Whether the windows of all claims are the current ones. Claims that were moved to the window of a first part are.
function fitting.are_current(claims)
  for _, claim in ipairs(claims) do
    if not claim.is_sliding and not claim.is_moved and (script.now < claim.start or script.now >= claim.ends) then return false end
  end
  return true
end

-- Point a claim without a counter at a new one of its group, or at the overflow counter that the rest of the group shares. An
-- identity in a sliding overflow counter stays there until that is empty, because a new counter would give it a fresh limit.
-- `make_room` is called if the group is full; it may remove counters that have expired.
function fitting.assign(claim, make_room)
  local stays = false
  if claim.is_sliding then
    counters.read({claim.overflow})
    local overflow = counters.known[claim.overflow]
    ring.advance(overflow, claim.ends)
    stays = overflow.total > 0
  end
  local is_full = tonumber(redis.call('HGET', keys.groups, claim.group) or 0) >= claim.max_identities
  if is_full and not stays and make_room then
    make_room()
    is_full = tonumber(redis.call('HGET', keys.groups, claim.group) or 0) >= claim.max_identities
  end
  if is_full or stays then
    claim.key, claim.field = counters.key_of(claim.field), claim.overflow
    counters.read({claim.field})
  else
    claim.joins = claim.group
  end
end

-- Set the counter of each claim, as it is now. Returns whether no two claims have the same. Without `make_room` nothing is written.
function fitting.find_counters(claims, make_room)
  local fields, is_distinct = {}, true
  for at, claim in ipairs(claims) do fields[at] = claim.field end
  counters.read(fields)
  for _, claim in ipairs(claims) do
    if claim.max_identities > 0 and counters.known[claim.field].is_new then fitting.assign(claim, make_room) end
    local counter = counters.known[claim.field]
    claim.counter = counter
    if claim.is_sliding then
      ring.advance(counter, claim.ends)
      if counter.was_moved and make_room then counters.mark_changed(counter) end
    end
    is_distinct = is_distinct and counter.claims ~= claims
    counter.claims = claims
  end
  return is_distinct
end

function fitting.used(claim)
  local counter = claim.counter
  return counter.total or counter.spent + counter.held
end

-- What all claims on the counter of `claim` need together: the base, and the amount per token.
function fitting.needs_together(claims, claim)
  local base, per_token = 0, 0
  for _, other in ipairs(claims) do
    if other.counter == claim.counter then base, per_token = base + other.base, per_token + other.per_token end
  end
  return base, per_token
end

-- The highest ceiling with which all claims fit; or nil.
function fitting.ceiling(claims, ceiling, is_distinct)
  local highest = ceiling
  for _, claim in ipairs(claims) do
    local base, per_token = claim.base, claim.per_token
    if not is_distinct then base, per_token = fitting.needs_together(claims, claim) end
    local left = claim.limit - fitting.used(claim) - base
    if left < 0 then return nil end
    if per_token > 0 then
      local fits = math.min(ceiling, math.floor(left * claim.scale / per_token))
      if fits > 0 and fitting.rounded_up(per_token * fits, claim.scale) > left then fits = fits - 1 end
      if fits < math.min(claim.floor, ceiling) then return nil end
      highest = math.min(highest, fits)
    end
  end
  return highest
end

function fitting.fits_at(claim, needed)
  if claim.is_sliding then return ring.fits_at(claim.counter, needed, claim.limit) end
  return claim.ends
end

-- The index of the claim that refuses the call for longest, what it needs, and when that fits. A claim that never fits comes
-- first, then one whose limit is spent (the one that resets last), then one whose limit is held; of equal ones the first.
function fitting.longest_refusal(claims, ceiling)
  local best, best_rank, best_wait, best_needed, best_resets
  for at, claim in ipairs(claims) do
    local base, per_token = fitting.needs_together(claims, claim)
    local needed = base + fitting.rounded_up(per_token * math.min(claim.floor, ceiling), claim.scale)
    local used = fitting.used(claim)
    if used + needed > claim.limit then
      local spent = claim.counter.spent or used
      local most = claim.limit - math.min(0, spent)  -- less than 0 is room that an operator has granted
      local rank = needed > most and 2 or spent + needed > claim.limit and 1 or 0
      local resets = fitting.fits_at(claim, needed)
      local wait = rank == 1 and resets or 0
      if not best or rank > best_rank or (rank == best_rank and wait > best_wait) then
        best, best_rank, best_wait, best_needed, best_resets = at, rank, wait, needed, resets
      end
    end
  end
  return best, best_needed, best_resets
end
