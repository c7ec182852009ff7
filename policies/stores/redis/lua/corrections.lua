-- What an operator changes: corrections of counters with notices for all processes, and the configured limits.
local MOST_NOTICES = 100

-- Return the number of the last notice, and the notices after number `seen`; none if that is -1.
function operations.notices_since(seen)
  local found = redis.call('HMGET', keys.meta, 'notice', 'notices')
  local last = tonumber(found[1] or 0)
  local reply = {last}
  if seen == -1 or seen == last then return reply end
  local notices = found[2] and cmsgpack.unpack(found[2]) or {}
  for _, notice in ipairs(notices) do
    if notice[1] > seen or seen > last then reply[#reply + 1] = notice[2] end  -- a store that was lost begins again at 1
  end
  return reply
end

local function add_notice(text)
  local last = redis.call('HINCRBY', keys.meta, 'notice', 1)
  local kept = redis.call('HGET', keys.meta, 'notices')
  local notices = kept and cmsgpack.unpack(kept) or {}
  notices[#notices + 1] = {last, text}
  if #notices > MOST_NOTICES then table.remove(notices, 1) end
  redis.call('HSET', keys.meta, 'notices', cmsgpack.pack(notices))
end

-- Subtract an amount from what the counters of calendar claims have spent, or set that to 0.
-- Arguments: id of the correction, amount or nil, text of the notice, claims. Result: as of `standings`.
function operations.correct(operation)
  local claims, correction = fitting.find_claims(operation, 5, true), 'correct:' .. operation[2]
  if not claims then return {reserve.OTHER_WINDOW} end
  local _, ending = holds.read(correction)
  if not ending then
    settle.record_ending(correction, '1')
    local corrected = {}
    for _, claim in ipairs(claims) do
      local counter = claim.counter
      if not corrected[counter] then
        corrected[counter] = true
        if counter.is_new then counters.create(counter, claim.ends, claim.joins or '') end
        counter.spent = operation[3] and math.max(counter.spent - operation[3], -script.LARGEST) or 0
        if not operation[3] then
          counter.group = string.gsub(counter.group, '%z%d+$', '') .. '\0' .. settle.resets_of(counter) + 1
        end
        counters.mark_changed(counter)
      end
    end
    add_notice(operation[4])
  end
  return operations.standings({'standings', unpack(operation, 5)})
end

-- Arguments: id, text. Replaces the remembered text, and returns the one before or false; the same if it is sent again.
-- It is stored with the counters, so that it is lost with them: then the generation changes, and all processes send it again.
function operations.limits(operation)
  local found = redis.call('HMGET', keys.counters, 'limits', 'limits_before', 'limits_id')
  if found[3] == operation[2] then return found[2] ~= '' and found[2] end
  redis.call('HSET', keys.counters, 'limits', operation[3], 'limits_before', found[1] or '', 'limits_id', operation[2])
  return found[1]
end
