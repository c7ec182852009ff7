-- Reservations, and the calls that have ended. A reservation is MessagePack [owner, part, part, ...]. A part is [number, ceiling,
-- whether it was charged], followed by four elements for each claim: field of the counter, cell of a sliding counter or 0, amount,
-- and key of the claim where the counter has another, else false. The owner is "" if all parts were charged, because the process had
-- no heartbeat.
holds.FIRST_ENTRY, holds.ENTRY = 4, 4

function holds.read(call)
  local value = redis.call('HGET', keys.holds, call)
  return value and cmsgpack.unpack(value)
end

function holds.part(hold, number)
  for at = 2, #hold do
    if hold[at][1] == number then return hold[at] end
  end
end

-- The key of the claim of the entry at `at`.
function holds.key_of(part, at) return part[at + 3] or counters.key_of(part[at]) end

-- How a call ended: '1', '0' if it was settled without a reservation, or false if it has not ended in the last minute.
function holds.ending(call)
  return redis.call('HGET', KEYS[9], call) or redis.call('HGET', KEYS[10], call)
end

-- Two hashes are filled in turns of a minute, and emptied before that.
function holds.record_ending(call, how)
  local period = math.floor(script.now / script.MINUTE)
  local ended = KEYS[9 + period % 2]
  if script.period ~= period then
    script.period = period
    redis.call('UNLINK', ended)
    redis.call('HSET', keys.counters, 'period', script.text(period))
  end
  redis.call('HSET', ended, call, how)
end

-- Replace what the entry of a part at `at` has reserved by what it is charged. A counter that was removed is not created again.
function holds.charge(part, at, spent)
  local counter, amount = counters.known[part[at]], part[at + 2]
  if counter.is_new then return end
  if part[3] then
    -- An operator may have reset the counter meanwhile; then what is returned must not become room beyond the limit.
    counter.spent = math.max(counter.spent + spent - amount, math.min(counter.spent, 0))
  else
    counter.held, counter.spent = counter.held - amount, counter.spent + spent
  end
  counter.spent = math.min(counter.spent, script.LARGEST)
  counters.mark_changed(counter)
end
