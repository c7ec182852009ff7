-- End a reservation. Results: 'settled', 'ended' if that was done before, or 'unknown'.

-- Replace what an entry of a part has reserved by what it is charged. A counter that was removed is not created again.
local function charge_entry(entry, spent, was_charged)
  local counter = counters[entry[1]]
  if counter.is_new then return end
  if was_charged then
    -- An operator may have reset the counter meanwhile; then what is returned must not become room beyond the limit.
    local difference = spent - entry[3]
    counter.spent = max(counter.spent + difference, min(counter.spent, 0))
  else
    counter.held, counter.spent = counter.held - entry[3], counter.spent + spent
  end
  counter.spent = min(counter.spent, LARGEST)
  mark_changed(counter)
end

local function entry_key(entry) return entry[4] or key_of(entry[1]) end

-- Charge all parts of a reservation, or give them back if there are no `charges`. The charge of a claim fills its parts one after
-- the other, each up to its amount; an excess is charged to the first part.
local function end_parts(hold, charges, refund)
  local fields, reserved, rest, excess = {}, {}, {}, {}
  if #hold > 2 then
    local parts = {unpack(hold, 2)}
    table.sort(parts, function(one, other) return one[1] < other[1] end)
    for at, part in ipairs(parts) do hold[at + 1] = part end
  end
  for at = 2, #hold do
    local part = hold[at]
    for index = 4, #part do
      local entry, key = part[index], entry_key(part[index])
      if sub(entry[1], 1, 2) ~= 's:' then reserved[key] = (reserved[key] or 0) + entry[3] end
      fields[#fields + 1] = entry[1]
    end
  end
  read_counters(fields)
  for key, amount in pairs(reserved) do
    local cost = charges and (charges[key] or amount) or 0
    if charges and not refund then cost = max(cost, amount) end
    excess[key], rest[key] = max(0, cost - amount), min(cost, amount)
  end
  for at = 2, #hold do
    local part = hold[at]
    for index = 4, #part do
      local entry, key = part[index], entry_key(part[index])
      if sub(entry[1], 1, 2) ~= 's:' then
        local share = min(rest[key], entry[3])
        rest[key] = rest[key] - share
        charge_entry(entry, share + excess[key], part[3])
        excess[key] = 0
      elseif not charges and not counters[entry[1]].is_new then
        return_to_ring(counters[entry[1]], entry[2], entry[3])
        mark_changed(counters[entry[1]])
      end
    end
  end
end

local function finish(call_id, charges, refund)
  local hold = read_hold(call_id)
  call('HDEL', HOLDS, call_id)  -- the first write: it frees memory, so a full server allows the others
  if hold then
    end_parts(hold, charges, refund)
    record_ending(call_id, '1')
    return 'settled'
  end
  local ending = ending_of(call_id)
  if not ending then record_ending(call_id, charges and '0' or '1') end
  return ending == '1' and 'ended' or 'unknown'
end

-- Arguments: call, whether what was reserved beyond the charge is given back, then key of the claim and amount of each charge.
local function settle(operation)
  local charges = {}
  for at = 4, #operation, 2 do charges[operation[at]] = operation[at + 1] end
  return finish(operation[2], charges, operation[3])
end

-- Argument: call.
local function release(operation) return finish(operation[2]) end
