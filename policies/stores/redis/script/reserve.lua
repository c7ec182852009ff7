-- Reserve all claims of a call with the highest ceiling that fits, or none of them.
-- Arguments: call, part, ceiling, claims. A claim is [field, start of the window or -1, its end or the length of a sliding one,
-- limit, base, per_token, scale, floor, max_identities], and where that is not 0: group, field of the overflow counter.
-- Result: 0, ceiling, index of the refused claim (from 0, or -1), then used, held, needed and resets_at of each claim.

local function read_hold(call_id)
  local value = call('HGET', HOLDS, call_id)
  return value and unpack_message(value)
end

local function part_of(hold, number)
  for at = 2, #hold do
    if hold[at][1] == number then return hold[at] end
  end
end

-- Count the calendar claims of a further part in the counters and windows that the first part took from.
local function move_to_first(claims, hold)
  local first, taken = part_of(hold, 0), {}
  for at = 4, first and #first or 0 do
    local entry = first[at]
    if sub(entry[1], 1, 2) ~= 's:' then taken[entry[4] or key_of(entry[1])] = entry[1] end
  end
  for _, claim in ipairs(claims) do
    local field = not claim.is_sliding and taken[key_of(claim.field)]
    if field then
      read_counters({field})
      local counter = counters[field]
      if not counter.is_new then
        if field ~= claim.field then claim.counted_as = claim.field end
        claim.field, claim.start, claim.max_identities = field, 0, 0
        claim.ends, claim.is_first = counter.ends, true
      end
    end
  end
end

local function answer(claims, ceiling, refused, needed, resets)
  local reply = {0, ceiling, refused and refused - 1 or -1}
  for at, claim in ipairs(claims) do
    local counter, is_refused = claim.counter, at == refused
    local size = #reply
    reply[size + 1] = used_of(claim)
    reply[size + 2] = claim.is_sliding and 0 or counter.held
    reply[size + 3] = is_refused and needed or 0
    reply[size + 4] = is_refused and resets or claim.is_sliding and ring_resets_at(counter) or claim.ends
  end
  return reply
end

local function take(claim, amount)
  local counter = claim.counter
  if claim.is_sliding and amount == 0 then return end
  if counter.is_new then create_counter(counter, claim.ends, claim.joins or '') end
  if claim.is_sliding then add_to_ring(counter, amount) else counter.held = counter.held + amount end
  mark_changed(counter)
end

local function make_room() rare().expire(20) end

local function reserve(operation)
  local call_id, part, ceiling, listed = operation[2], operation[3], operation[4], operation[5]
  local hold = read_hold(call_id)
  if not hold and (part > 0 or ending_of(call_id)) then return CALL_ENDED end
  local claims = {}
  for at, list in ipairs(listed) do claims[at] = named_claim(list) end
  if part > 0 then move_to_first(claims, hold) end
  for _, claim in ipairs(claims) do
    if not claim.is_first and not is_current(claim) then return OTHER_WINDOW end
  end
  local is_distinct = find_counters(claims, make_room)
  local known = hold and part_of(hold, part)
  if known then return answer(claims, known[2]) end
  local granted = fitting_ceiling(claims, ceiling, is_distinct)
  if not granted then
    for _, claim in ipairs(claims) do
      if claim.counter.was_moved then mark_changed(claim.counter) end  -- else they would be moved again later
    end
    return answer(claims, ceiling, longest_refusal(claims, ceiling, is_distinct))
  end
  hold = hold or {owner}
  hold[1] = owner
  local taken = {part, granted, false}
  for at, claim in ipairs(claims) do
    claim.amount = claim.base + rounded_up(claim.per_token * granted, claim.scale)
    taken[at + 3] = {claim.field, claim.is_sliding and claim.counter.newest or 0, claim.amount, claim.counted_as and key_of(claim.counted_as)}
  end
  hold[#hold + 1] = taken
  call('HSET', HOLDS, call_id, pack(hold))  -- the first write: a full server refuses it, and so the whole operation
  has_reserved = true
  local has_new = false
  for _, claim in ipairs(claims) do
    has_new = has_new or claim.counter.is_new
    take(claim, claim.amount)
  end
  if has_new then rare().expire(4) end  -- at least as many as are created, so that what has expired does not pile up
  return answer(claims, granted)
end
