-- Reserve all claims of a call with the highest ceiling that fits, or none of them.
-- Arguments: call, part, ceiling, then for each claim: field of its counter, start of the window or -1, end of the window or length
-- of the sliding one, limit, base, per_token, scale, floor, max_identities or 0, group, field of the overflow counter.
-- Result: 0, ceiling, index of the refused claim (from 0, or -1), then used, held, needed and resets_at of each claim; or
-- [1] if a window is not the current one, or [2] if the call has ended.
reserve.OTHER_WINDOW, reserve.CALL_ENDED = 1, 2

function reserve.answer(claims, ceiling, refused, needed, resets)
  local reply, size = {0, ceiling, refused and refused - 1 or -1}, 3
  for at = 1, #claims do
    local claim, is_refused = claims[at], at == refused
    local counter = claim.counter
    reply[size + 1] = counter.spent + counter.held
    reply[size + 2] = counter.held
    reply[size + 3] = is_refused and needed or 0
    reply[size + 4] = is_refused and resets or claim.is_sliding and ring.resets_at(counter) or claim.ends
    size = size + 4
  end
  return reply
end

-- Record a part of a reservation, and add it to the counters. Return whether one of them is new.
function reserve.take(call, hold, part, granted, claims)
  local taken, at, has_new = {part, granted, false}, holds.FIRST_ENTRY, false
  for index = 1, #claims do
    local claim = claims[index]
    if claim.is_sliding and claim.counter.mark == 0 then
      script.load_rare()
      counters.give_mark(claim.counter)
    end
    claim.amount = claim.base + fitting.rounded_up(claim.per_token * granted, claim.scale)
    taken[at], taken[at + 1] = claim.field, claim.counter.newest or 0
    taken[at + 2], taken[at + 3] = claim.amount, claim.is_sliding and claim.counter.mark or claim.key or false
    at = at + holds.ENTRY
  end
  hold = hold or {}
  hold[1] = script.owner
  hold[math.max(#hold, 1) + 1] = taken
  redis.call('HSET', keys.holds, call, cmsgpack.pack(hold))  -- the first write: a full server refuses it, and so the operation
  script.has_written = true
  if script.beats and not script.has_beaten then
    redis.call('HSET', keys.owners, script.owner, script.text(script.now))
    script.has_beaten = true
  end
  for index = 1, #claims do
    local claim = claims[index]
    local counter, amount = claim.counter, claim.amount
    if amount > 0 or not claim.is_sliding then
      if counter.is_new then
        script.load_rare()
        counters.create(counter, claim.ends, claim.joins or '')
        has_new = true
      end
      if claim.is_sliding then ring.add(counter, counter.newest, amount) else counter.held = counter.held + amount end
      counters.mark_changed(counter)
    end
  end
  return has_new
end

function operations.reserve(operation)
  local call, part, ceiling = operation[2], operation[3], operation[4]
  local hold, ending = holds.read(call)
  if not hold and (part > 0 or ending) then return {reserve.CALL_ENDED} end
  if hold then script.load_rare() end
  local claims, is_distinct = fitting.find_claims(operation, 5, true, part > 0 and hold)
  if not claims then return {reserve.OTHER_WINDOW} end
  local known = hold and fitting.part(hold, part)
  if known then return reserve.answer(claims, known[2]) end
  local granted = fitting.ceiling(claims, ceiling, is_distinct)
  if not granted then
    script.load_rare()
    return reserve.answer(claims, ceiling, fitting.longest_refusal(claims, ceiling))
  end
  if reserve.take(call, hold, part, granted, claims) then
    operations.expire(2 * #claims)  -- more than are created, so that what has expired does not pile up
  end
  return reserve.answer(claims, granted)
end
