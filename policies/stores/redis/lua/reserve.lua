-- Reserve all claims of a call with the highest ceiling that fits, or none of them.
-- Arguments: call, part, ceiling, then for each claim: field of its counter, start of the window or -1, end of the window or length
-- of the sliding one, limit, base, per_token, scale, floor, max_identities or 0, group, field of the overflow counter. Result: 0, ceiling, index of the refused claim (from 0, or -1), then used, held, needed and resets_at of each claim; or
-- [1] if a window is not the current one, or [2] if the call has ended.
reserve.OTHER_WINDOW, reserve.CALL_ENDED = 1, 2

function reserve.make_room()
  parts.rare()
  operations.expire(20)
end

function reserve.part(hold, number)
  for at = 2, #hold do
    if hold[at][1] == number then return hold[at] end
  end
end

-- Count the calendar claims of a further part in the counters and windows that the first part took from.
function reserve.move_to_first(claims, hold)
  local first, taken = reserve.part(hold, 0), {}
  for at = holds.FIRST_ENTRY, first and #first or 0, holds.ENTRY do
    if not counters.is_sliding(first[at]) then taken[holds.key_of(first, at)] = first[at] end
  end
  for _, claim in ipairs(claims) do
    local key = counters.key_of(claim.field)
    local field = not claim.is_sliding and taken[key]
    if field then
      counters.read({field})
      local counter = counters.known[field]
      if not counter.is_new then
        claim.field, claim.key, claim.start, claim.max_identities = field, key, 0, 0
        claim.ends = math.max(counter.ends, script.now)  -- it may have ended; then waiting is over
        claim.is_moved = true
      end
    end
  end
end

function reserve.answer(claims, ceiling, refused, needed, resets)
  local reply, size = {0, ceiling, refused and refused - 1 or -1}, 3
  for at, claim in ipairs(claims) do
    local counter, is_refused = claim.counter, at == refused
    reply[size + 1] = fitting.used(claim)
    reply[size + 2] = counter.held or 0
    reply[size + 3] = is_refused and needed or 0
    reply[size + 4] = is_refused and resets or claim.is_sliding and ring.resets_at(counter) or claim.ends
    size = size + 4
  end
  return reply
end

function reserve.take(claim)
  local counter, amount = claim.counter, claim.amount
  if claim.is_sliding and amount == 0 then return end
  if counter.is_new then
    parts.rare()
    counters.create(counter, claim.ends, claim.joins or '')
  end
  if claim.is_sliding then ring.add(counter, amount) else counter.held = counter.held + amount end
  counters.mark_changed(counter)
end

-- Record the part. This is the first write of the operation: a full server refuses it, and so the whole operation.
function reserve.record(call, hold, part, granted, claims)
  local taken = {part, granted, false}
  local at = holds.FIRST_ENTRY
  for _, claim in ipairs(claims) do
    local amount = claim.base + fitting.rounded_up(claim.per_token * granted, claim.scale)
    claim.amount = amount
    taken[at], taken[at + 1], taken[at + 2], taken[at + 3] = claim.field, claim.counter.newest or 0, amount, claim.key or false
    at = at + holds.ENTRY
  end
  hold = hold or {}
  hold[1] = script.owner
  hold[math.max(#hold, 1) + 1] = taken
  redis.call('HSET', keys.holds, call, cmsgpack.pack(hold))
  script.has_written = true
  if script.beats and not script.has_beaten then
    redis.call('HSET', keys.owners, script.owner, script.text(script.now))
    script.has_beaten = true
  end
end

function operations.reserve(operation)
  local call, part, ceiling = operation[2], operation[3], operation[4]
  local hold = holds.read(call)
  if not hold and (part > 0 or holds.ending(call)) then return {reserve.CALL_ENDED} end
  local claims = fitting.named_claims(operation, 5)
  if part > 0 then reserve.move_to_first(claims, hold) end
  if not fitting.are_current(claims) then return {reserve.OTHER_WINDOW} end
  local is_distinct = fitting.find_counters(claims, reserve.make_room)
  local known = hold and reserve.part(hold, part)
  if known then return reserve.answer(claims, known[2]) end
  local granted = fitting.ceiling(claims, ceiling, is_distinct)
  if not granted then return reserve.answer(claims, ceiling, fitting.longest_refusal(claims, ceiling)) end
  reserve.record(call, hold, part, granted, claims)
  local has_new = false
  for _, claim in ipairs(claims) do
    reserve.take(claim)
    has_new = has_new or claim.counter.is_created
  end
  if has_new then operations.expire(2 * #claims) end  -- more than are created, so that what has expired does not pile up
  return reserve.answer(claims, granted)
end
