-- Reservations, and the calls that have ended. A reservation is MessagePack [owner, part, part, ...]. A part is [number, ceiling,
-- whether it was charged], followed by four elements for each claim: field of the counter, a number, amount, and key of the claim
-- where the counter has another, else false. The number is the cell of a sliding counter. Of a calendar counter it is how
-- often the counter had been reset when the reservation was charged, and 0 before. A sliding counter has its mark in the place of
-- the key. The owner is "" if all parts were charged, because the process had no heartbeat.
holds.FIRST_ENTRY, holds.ENTRY = 4, 4

-- Return the reservation of a call; or nil, and how it ended: '1', '0' if it was settled without a reservation, or false if it has not
-- ended in the last minute.
function holds.read(call)
  local value = redis.call('HGET', keys.holds, call)
  if value then return cmsgpack.unpack(value) end
  return nil, redis.call('HGET', KEYS[9], call) or redis.call('HGET', KEYS[10], call)
end
