-- Functions of a ring that most calls do not need.

-- Use more bytes for each cell, because `amount` needs them.
function ring.widen(counter, amount)
  local size = amount < 4294967296 and 4 or 8
  local cells, format = {}, size == 8 and '<d' or '<I4'
  for slot = 0, ring.CELLS do cells[slot + 1] = struct.pack(format, ring.amount_of(counter, slot)) end
  counter.size, counter.format, counter.cells = size, format, table.concat(cells)
end

-- Subtract an amount that was taken under a mark from its cell, unless that has expired.
function ring.give_back(counter, cell, amount, mark)
  if counter.mark ~= mark or counter.spent == 0 or cell < counter.oldest or cell > counter.newest then return end
  ring.add(counter, cell, -math.min(amount, ring.amount_of(counter, cell)))
end

-- When the ring will have room for `needed`: the end of the first cell after which it fits; the end of the last one where it
-- never does, and now where the ring is empty.
function ring.fits_at(counter, needed, limit)
  local left, at = counter.spent, script.now
  for cell = counter.oldest, left > 0 and counter.newest or counter.oldest - 1 do
    local amount = ring.amount_of(counter, cell)
    if amount > 0 then
      left, at = left - amount, (cell + ring.SLOTS) * counter.width
      if left + needed <= limit then break end
    end
  end
  return math.max(script.now, at)
end

-- When the newest cell expires.
function ring.ends_at(counter) return (counter.newest + ring.SLOTS) * counter.width end
