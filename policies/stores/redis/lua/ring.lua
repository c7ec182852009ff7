-- The ring of a sliding counter. Time is divided into cells of 1/64 of the window, and what was taken in a cell counts until
-- 65 cells after its start. So no span of the window holds more than the limit, and room returns 1/64 of the window late.
--
-- The stored form is the doubles newest, oldest, total and width, the number of bytes of a cell, the mark, 65 cells, and the name
-- of the group. Cell j is in slot j % 65. Cells before `oldest` and after `newest` are 0. The number of bytes grows with the amounts.
-- The mark changes when the clock was set back: then a cell may count what other calls take later, so what was taken before is not
-- given back. Two counters that have the same name one after the other have different marks.
-- The total is `spent`, and `held` is 0, so that it can be read like a calendar counter.
ring.CELLS, ring.SLOTS, ring.HEADER, ring.HEADER_BYTES = 64, 65, '<ddddBI4', 37

function ring.decode(field, value)
  local counter = {
    field = field, is_sliding = true, is_new = not value, group = '', spent = 0, held = 0, newest = 0, oldest = 0, width = 0, size = 2,
    mark = 0, format = '', cells = '', claims = false, is_changed = false
  }
  if value then
    counter.newest, counter.oldest, counter.spent, counter.width, counter.size, counter.mark = struct.unpack(ring.HEADER, value)
    local cells_end = ring.HEADER_BYTES + ring.SLOTS * counter.size
    counter.format = counter.size == 8 and '<d' or '<I' .. counter.size
    counter.cells = string.sub(value, ring.HEADER_BYTES + 1, cells_end)
    if #value > cells_end then counter.group = string.sub(value, cells_end + 1) end
  end
  return counter
end

function ring.encode(counter)
  local header = struct.pack(ring.HEADER, counter.newest, counter.oldest, counter.spent, counter.width, counter.size, counter.mark)
  return header .. counter.cells .. counter.group
end

function ring.amount_of(counter, cell)
  return (struct.unpack(counter.format, counter.cells, cell % ring.SLOTS * counter.size + 1))
end

-- Add an amount to a cell, or subtract it if it is negative.
function ring.add(counter, cell, amount)
  local sum = ring.amount_of(counter, cell) + amount
  if sum >= 65536 and counter.size == 2 or sum >= 4294967296 and counter.size == 4 then
    script.load_rare()
    ring.widen(counter, sum)
  end
  local at, size, cells = cell % ring.SLOTS * counter.size, counter.size, counter.cells
  counter.cells = string.sub(cells, 1, at) .. struct.pack(counter.format, sum) .. string.sub(cells, at + size + 1)
  counter.spent = counter.spent + amount
end

-- Set the cells from `first` to `last` to 0, and return their sum.
function ring.clear(counter, first, last)
  local sum, size = 0, counter.size
  for cell = first, last do sum = sum + ring.amount_of(counter, cell) end
  local from, after, cells = first % ring.SLOTS * size, (last % ring.SLOTS + 1) * size, counter.cells
  if from < after then
    counter.cells = string.sub(cells, 1, from) .. string.rep('\0', after - from) .. string.sub(cells, after + 1)
  else
    counter.cells = string.rep('\0', after) .. string.sub(cells, after + 1, from) .. string.rep('\0', #cells - from)
  end
  counter.spent = counter.spent - sum
  return sum
end

-- Move the ring to the cell of now. Cells that have expired are cleared. If the clock was set back, the amounts of all later
-- cells are moved into the current one, so that they expire one window from now. `was_moved` tells that the amounts changed.
function ring.advance(counter, length)
  counter.width = math.ceil(length / ring.CELLS)
  local current = math.floor(script.now / counter.width)
  if counter.newest > current then counter.mark = (counter.mark + 1) % 4294967296 end
  if counter.spent > 0 and counter.newest > current then
    local later = ring.clear(counter, math.max(counter.oldest, current + 1), counter.newest)
    ring.add(counter, current, later)
    counter.oldest, counter.newest, counter.was_moved = math.min(counter.oldest, current), current, true
  end
  local expired = current - ring.SLOTS
  if counter.spent > 0 and counter.oldest <= expired then
    if counter.newest <= expired then counter.spent = 0 else ring.clear(counter, counter.oldest, expired) end
    counter.oldest, counter.was_moved = expired + 1, true
  end
  if counter.spent == 0 then
    counter.oldest, counter.size, counter.format = current, 2, '<I2'
    counter.cells = string.rep('\0', ring.SLOTS * 2)
  end
  counter.newest = current
end

-- When the oldest cell expires; now where the ring is empty.
function ring.resets_at(counter)
  if counter.spent == 0 then return script.now end
  while counter.oldest < counter.newest and ring.amount_of(counter, counter.oldest) == 0 do
    counter.oldest = counter.oldest + 1
  end
  return math.max(script.now, (counter.oldest + ring.SLOTS) * counter.width)
end
