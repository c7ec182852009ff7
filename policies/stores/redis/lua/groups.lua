-- The groups of identities that clients choose: which of them get a counter of their own.

-- The name under which the counters of the group of a claim are counted, and how many it has. All groups get new names if their
-- sizes were lost, and those of sliding counters also if the clock was set back: if `latest`, when one of these counters was made or
-- looked at, is later than now. Then earlier counters do not count towards the size. They stay in use, and are removed when they expire.
function groups.named(claim, writes)
  local found = redis.call('HMGET', keys.groups, claim.group, 'lost', 'latest', 'setbacks')
  local name, latest, setbacks = claim.group, tonumber(found[3] or 0), tonumber(found[4] or 0)
  if found[2] then name = name .. ':' .. found[2] end
  if claim.is_sliding then
    if latest > script.now + script.SECOND then setbacks = setbacks + 1 end
    if writes and math.abs(script.now - latest) > script.SECOND then
      redis.call('HSET', keys.groups, 'latest', script.text(script.now), 'setbacks', setbacks)
    end
    if setbacks > 0 then name = name .. '@' .. setbacks end
  end
  local size = found[1]
  if name ~= claim.group then size = redis.call('HGET', keys.groups, name) end
  return name, tonumber(size or 0)
end

-- Point a claim without a counter at a new one of its group, or at the overflow counter that the rest of the group shares. An
-- identity in a sliding overflow counter stays there until that is empty, because a new counter would give it a fresh limit.
-- If the group is full, and this operation `writes`, counters that have expired are removed to make room.
function groups.assign(claim, writes)
  local stays = false
  if claim.is_sliding then
    counters.read({claim.overflow})
    local overflow = counters.known[claim.overflow]
    ring.advance(overflow, claim.ends)
    stays = overflow.spent > 0
  end
  local group, size = groups.named(claim, writes)
  if size >= claim.max_identities and not stays and writes then
    operations.expire(20)
    size = tonumber(redis.call('HGET', keys.groups, group) or 0)
  end
  local is_full = size >= claim.max_identities
  if is_full or stays then
    claim.key, claim.field = counters.key_of(claim.field), claim.overflow
    counters.read({claim.field})
  else
    claim.joins = group
  end
end
