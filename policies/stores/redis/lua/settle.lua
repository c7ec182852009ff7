-- End a reservation. Results: 'settled', 'ended' if that was done before, or 'unknown'.

-- Two hashes are filled in turns of a minute, and emptied before that.
function settle.record_ending(call, how)
  local period = math.floor(script.now / script.MINUTE)
  local ended = KEYS[9 + period % 2]
  if script.period ~= period then
    script.period = period
    redis.call('UNLINK', ended)
    redis.call('HSET', keys.counters, 'period', script.text(period))
  end
  redis.call('HSET', ended, call, how)
end

-- How often an operator has reset a calendar counter.
function settle.resets_of(counter) return tonumber(string.match(counter.group, '%z(%d+)$') or 0) end

-- Replace what the entry of a part at `at` has reserved by what it is charged. A counter that was removed is not created again.
function settle.charge(part, at, spent)
  local counter, amount = counters.known[part[at]], part[at + 2]
  if counter.is_new then return end
  if part[3] then
    -- If an operator has reset the counter since, the charge is gone: then nothing is returned of it.
    if spent > amount or settle.resets_of(counter) == part[at + 1] then counter.spent = counter.spent + spent - amount end
  else
    counter.held, counter.spent = counter.held - amount, counter.spent + spent
  end
  counter.spent = math.min(counter.spent, script.LARGEST)
  counters.mark_changed(counter)
end

-- Charge all parts of a reservation, or give them back if there are no `charges`. The charge of a claim fills its parts one after
-- the other, each up to its amount; an excess is charged to the first part.
function settle.end_parts(parts, charges, refund)
  local fields, reserved, rest = {}, {}, {}
  for _, part in ipairs(parts) do
    for at = holds.FIRST_ENTRY, #part, holds.ENTRY do
      local is_sliding = string.byte(part[at]) == script.SLIDING
      if not is_sliding or not charges then fields[#fields + 1] = part[at] end  -- a charge leaves sliding counters as they are
      if not is_sliding then
        local key = part[at + 3] or counters.key_of(part[at])
        part[at + 3], reserved[key] = key, (reserved[key] or 0) + part[at + 2]
      end
    end
  end
  counters.read(fields)
  for _, part in ipairs(parts) do
    for at = holds.FIRST_ENTRY, #part, holds.ENTRY do
      local amount, key, excess = part[at + 2], part[at + 3], 0
      if string.byte(part[at]) ~= script.SLIDING then
        if not rest[key] then
          local held = reserved[key]
          local cost = charges and (charges[key] or held) or 0
          if charges and not refund and cost < held then cost = held end
          if cost > held then excess, rest[key] = cost - held, held else rest[key] = cost end
        end
        local share = math.min(rest[key], amount)
        rest[key] = rest[key] - share
        settle.charge(part, at, share + excess)
      elseif not charges and not counters.known[part[at]].is_new then
        ring.give_back(counters.known[part[at]], part[at + 1], amount, key)
        counters.mark_changed(counters.known[part[at]])
      end
    end
  end
end

-- Arguments: call, whether what was reserved beyond the charge is given back, then key of the claim and amount of each charge.
-- `release` has the argument call alone: it gives everything back.
function operations.settle(operation)
  local call, charges = operation[2], operation[1] == 'settle' and {}
  for at = 4, #operation, 2 do charges[operation[at]] = operation[at + 1] end
  local hold, ending = holds.read(call)
  redis.call('HDEL', keys.holds, call)  -- the first write: it frees memory, so a full server allows the others
  script.has_written = true
  if not hold then
    if not ending then settle.record_ending(call, charges and '0' or '1') end
    return ending == '1' and 'ended' or 'unknown'
  end
  table.remove(hold, 1)
  if #hold > 1 then table.sort(hold, function(one, other) return one[1] < other[1] end) end
  settle.end_parts(hold, charges, operation[3])
  settle.record_ending(call, '1')
  return 'settled'
end

operations.release = operations.settle
