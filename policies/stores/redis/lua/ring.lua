-- The ring of a sliding counter. Time is divided into cells of 1/64 of the window, and what was taken in a cell counts until
-- 65 cells after its start. So no span of the window holds more than the limit, and room returns 1/64 of the window late.
--
-- The stored form is the doubles newest, oldest, total and width, the number of bytes of a cell, 65 cells, and the name of the
-- group. Cell j is in slot j % 65. Cells before `oldest` and after `newest` are 0. The number of bytes grows with the amounts.
ring.CELLS, ring.SLOTS, ring.HEADER, ring.HEADER_BYTES = 64, 65, '<ddddB', 33

function ring.format_of(size) return size == 2 and '<I2' or size == 4 and '<I4' or '<d' end

function ring.decode(field, value)
  local counter = {
    field = field, is_sliding = true, is_new = not value, group = '', total = 0, newest = 0, oldest = 0, width = 0, size = 2,
    format = '', cells = '', claims = false, is_changed = false
  }
  if value then
    counter.newest, counter.oldest, counter.total, counter.width, counter.size = struct.unpack(ring.HEADER, value)
    local cells_end = ring.HEADER_BYTES + ring.SLOTS * counter.size
    counter.format, counter.cells = ring.format_of(counter.size), string.sub(value, ring.HEADER_BYTES + 1, cells_end)
    if #value > cells_end then counter.group = string.sub(value, cells_end + 1) end
  end
  return counter
end

function ring.encode(counter)
  local header = struct.pack(ring.HEADER, counter.newest, counter.oldest, counter.total, counter.width, counter.size)
  return header .. counter.cells .. counter.group
end

function ring.amount_of(counter, cell)
  return (struct.unpack(counter.format, counter.cells, cell % ring.SLOTS * counter.size + 1))
end

function ring.empty(counter, cell)
  counter.newest, counter.oldest, counter.total, counter.size, counter.format = cell, cell, 0, 2, '<I2'
  counter.cells = string.rep('\0', ring.SLOTS * 2)
end

-- Use more bytes for each cell if `amount` needs them.
function ring.widen(counter, amount)
  local size = amount < 65536 and 2 or amount < 4294967296 and 4 or 8
  if size <= counter.size then return end
  local cells, format = {}, ring.format_of(size)
  for slot = 0, ring.CELLS do cells[slot + 1] = struct.pack(format, (ring.amount_of(counter, slot))) end
  counter.size, counter.format, counter.cells = size, format, table.concat(cells)
end

function ring.set(counter, cell, amount)
  ring.widen(counter, amount)
  local at, cells = cell % ring.SLOTS * counter.size, counter.cells
  cells = string.sub(cells, 1, at) .. struct.pack(counter.format, amount) .. string.sub(cells, at + counter.size + 1)
  counter.cells = cells
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
  return sum
end

-- Move the ring to the cell of now. Cells that have expired are cleared. If the clock was set back, the amounts of all later
-- cells are moved into the current one, so that they expire one window from now. `was_moved` tells that the amounts changed.
function ring.advance(counter, length)
  counter.width = math.ceil(length / ring.CELLS)
  local current = math.floor(script.now / counter.width)
  if counter.total == 0 then return ring.empty(counter, current) end
  if counter.newest > current then
    local later = ring.clear(counter, math.max(counter.oldest, current + 1), counter.newest)
    counter.oldest, counter.newest = math.min(counter.oldest, current), current
    ring.set(counter, current, ring.amount_of(counter, current) + later)
    counter.was_moved = true
  end
  local expired = current - ring.SLOTS
  if counter.oldest <= expired then
    counter.was_moved = true
    if counter.newest <= expired then return ring.empty(counter, current) end
    counter.total = counter.total - ring.clear(counter, counter.oldest, expired)
    counter.oldest = expired + 1
    if counter.total == 0 then return ring.empty(counter, current) end
  end
  counter.newest = current
end

function ring.add(counter, amount)
  ring.set(counter, counter.newest, ring.amount_of(counter, counter.newest) + amount)
  counter.total = counter.total + amount
end

-- Subtract an amount from its cell, unless that has expired. What was moved to another cell stays counted.
function ring.give_back(counter, cell, amount)
  if counter.total == 0 or cell < counter.oldest or cell > counter.newest then return end
  local counted = ring.amount_of(counter, cell)
  amount = math.min(amount, counted)
  ring.set(counter, cell, counted - amount)
  counter.total = counter.total - amount
end

-- When the ring will have room for `needed`: the end of the first cell after which it fits; the end of the last one where it
-- never does, and now where the ring is empty.
function ring.fits_at(counter, needed, limit)
  local left, at = counter.total, script.now
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

-- When the oldest cell expires; now where the ring is empty.
function ring.resets_at(counter)
  if counter.total == 0 then return script.now end
  while counter.oldest < counter.newest and ring.amount_of(counter, counter.oldest) == 0 do
    counter.oldest = counter.oldest + 1
  end
  return math.max(script.now, (counter.oldest + ring.SLOTS) * counter.width)
end
