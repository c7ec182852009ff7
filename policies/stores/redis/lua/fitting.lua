-- The claims of a call: which counter each is counted in, whether they fit, and with which ceiling.

-- amount / divisor, rounded up; exact, which the quotient of two doubles is not.
function fitting.rounded_up(amount, divisor)
  if divisor == 1 then return amount end
  local rest = math.fmod(amount, divisor)
  return (amount - rest) / divisor + (rest > 0 and 1 or 0)
end

-- Return the claims in the arguments of an operation from number `first` on, each with its counter as it is now, and whether no two
-- have the same one. Each claim has the eleven arguments that are named here. Return nil if the window of a claim is not the current one.
-- If the call has a `hold`, its claims are those of a further part. Without `writes` nothing is written.
function fitting.find_claims(operation, first, writes, hold)
  local claims, fields, is_distinct = {}, {}, true
  for at = first, #operation, 11 do
    local field, start, ends, limit, base, per_token, scale, floor, max_identities, group, overflow = unpack(operation, at, at + 10)
    claims[#claims + 1] = {
      field = field, start = start, ends = ends, limit = limit, base = base, per_token = per_token, scale = scale, floor = floor,
      max_identities = max_identities, group = group, overflow = overflow, is_sliding = start < 0, counter = false, amount = 0
    }
    fields[#claims] = field
  end
  counters.read(fields)
  if hold then fitting.move_to_first_part(claims, hold) end
  for at = 1, #claims do
    local claim = claims[at]
    if not claim.is_sliding and not claim.is_moved and (script.now < claim.start or script.now >= claim.ends) then return nil end
  end
  for at = 1, #claims do
    local claim = claims[at]
    if claim.max_identities > 0 and counters.known[claim.field].is_new then
      script.load_rare()
      groups.assign(claim, writes)
    end
    local counter = counters.known[claim.field]
    claim.counter = counter
    if claim.is_sliding then
      ring.advance(counter, claim.ends)
      if counter.was_moved and writes then counters.mark_changed(counter) end
    end
    is_distinct = is_distinct and counter.claims ~= claims
    counter.claims = claims
  end
  return claims, is_distinct
end

-- The highest ceiling with which all claims fit; or nil.
function fitting.ceiling(claims, ceiling, is_distinct)
  local highest = ceiling
  for at = 1, #claims do
    local claim = claims[at]
    local counter, base, per_token = claim.counter, claim.base, claim.per_token
    if not is_distinct then
      script.load_rare()
      base, per_token = fitting.needs_together(claims, claim)
    end
    local left = claim.limit - counter.spent - counter.held - base
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
