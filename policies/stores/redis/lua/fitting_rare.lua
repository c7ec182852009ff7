-- Functions that most calls do not need: further parts of a reservation, claims on one counter, and refusals.

-- The part of a reservation with a number.
function fitting.part(hold, number)
  for at = 2, #hold do
    if hold[at][1] == number then return hold[at] end
  end
end

-- Count the calendar claims of a further part in the counters and windows that the first part took from.
function fitting.move_to_first_part(claims, hold)
  local first, taken = fitting.part(hold, 0), {}
  for at = holds.FIRST_ENTRY, first and #first or 0, holds.ENTRY do
    if string.byte(first[at]) ~= script.SLIDING then taken[first[at + 3] or counters.key_of(first[at])] = first[at] end
  end
  for _, claim in ipairs(claims) do
    local key = counters.key_of(claim.field)
    local field = not claim.is_sliding and taken[key]
    if field then
      counters.read({field})
      local counter = counters.known[field]
      if not counter.is_new then
        claim.field, claim.key, claim.max_identities, claim.is_moved = field, key, 0, true
        claim.ends = math.max(counter.ends, script.now)  -- it may have ended; then waiting is over
      end
    end
  end
end

-- What all claims on the counter of `claim` need together: the base, and the amount per token.
function fitting.needs_together(claims, claim)
  local base, per_token = 0, 0
  for _, other in ipairs(claims) do
    if other.counter == claim.counter then base, per_token = base + other.base, per_token + other.per_token end
  end
  return base, per_token
end

-- The index of the claim that refuses the call for longest, what it needs, and when that fits. A claim that never fits comes
-- first, then one whose limit is spent (the one that resets last), then one whose limit is held; of equal ones the first.
function fitting.longest_refusal(claims, ceiling)
  local best, best_rank, best_wait, best_needed, best_resets
  for at, claim in ipairs(claims) do
    local base, per_token = fitting.needs_together(claims, claim)
    local needed = base + fitting.rounded_up(per_token * math.min(claim.floor, ceiling), claim.scale)
    local spent, held = claim.counter.spent, claim.counter.held
    if spent + held + needed > claim.limit then
      local most = claim.limit - math.min(0, spent)  -- less than 0 is room that an operator has granted
      local rank = needed > most and 2 or spent + needed > claim.limit and 1 or 0
      local resets = claim.is_sliding and ring.fits_at(claim.counter, needed, claim.limit) or claim.ends
      local wait = rank == 1 and resets or 0
      if not best or rank > best_rank or (rank == best_rank and wait > best_wait) then
        best, best_rank, best_wait, best_needed, best_resets = at, rank, wait, needed, resets
      end
    end
  end
  return best, best_needed, best_resets
end
