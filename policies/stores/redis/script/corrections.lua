-- What an operator changes: corrections of counters with notices for all processes, and the configured limits.
local MOST_NOTICES = 100

-- Return the number of the last notice, and the notices after number `seen`; none if that is -1.
function operations.notices_since(seen)
  local found = call('HMGET', META, 'notice', 'notices')
  local last = tonumber(found[1] or 0)
  local reply = {last}
  if seen == -1 or seen == last then return reply end
  local notices = found[2] and unpack_message(found[2]) or {}
  for _, notice in ipairs(notices) do
    if notice[1] > seen or seen > last then reply[#reply + 1] = notice[2] end  -- a store that was lost begins again at 1
  end
  return reply
end

local function add_notice(text)
  local last = call('HINCRBY', META, 'notice', 1)
  local kept = call('HGET', META, 'notices')
  local notices = kept and unpack_message(kept) or {}
  notices[#notices + 1] = {last, text}
  if #notices > MOST_NOTICES then table.remove(notices, 1) end
  call('HSET', META, 'notices', pack(notices))
end

-- Subtract an amount from what the counters of calendar claims have spent, or set that to 0.
-- Arguments: id of the correction, amount or nil, text of the notice, claims. Result: as of `standings`.
function operations.correct(operation)
  local claims, done = {}, 'correct:' .. operation[2]
  for at, list in ipairs(operation[5]) do
    claims[at] = named_claim(list)
    if not is_current(claims[at]) then return OTHER_WINDOW end
  end
  find_counters(claims, make_room)
  if not ending_of(done) then
    record_ending(done, '1')
    local corrected = {}
    for _, claim in ipairs(claims) do
      local counter = claim.counter
      if not corrected[counter] then
        corrected[counter] = true
        if counter.is_new then create_counter(counter, claim.ends, claim.joins or '') end
        counter.spent = operation[3] and max(counter.spent - operation[3], -LARGEST) or 0
        mark_changed(counter)
      end
    end
    add_notice(operation[4])
  end
  return operations.standings({'standings', operation[5]})
end

-- Arguments: id, text. Replaces the remembered text, and returns the one before or false; the same if it is sent again.
function operations.limits(operation)
  local found = call('HMGET', META, 'limits', 'limits_before', 'limits_id')
  if found[3] == operation[2] then return found[2] ~= '' and found[2] end
  call('HSET', META, 'limits', operation[3], 'limits_before', found[1] or '', 'limits_id', operation[2])
  return found[1]
end
