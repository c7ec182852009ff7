-- The ring of a sliding counter. Time is divided into cells of 1/64 of the window, and what was taken in a cell counts until
-- 65 cells after its start. So no span of the window holds more than the limit, and room returns 1/64 of the window late.
--
-- The stored form is the doubles newest, oldest, total and width, the number of bytes of a cell, 65 cells, and the name of the
-- group. Cell j is in slot j % 65. Cells before `oldest` and after `newest` are 0. The number of bytes grows with the amounts.
local CELLS, SLOTS, RING_HEADER = 64, 65, '<ddddB'
local RING_HEADER_BYTES = 33

local function cell_format(size) return size == 2 and '<I2' or size == 4 and '<I4' or '<d' end

local function decode_ring(ring, value)
  ring.newest, ring.oldest, ring.total, ring.width, ring.size = struct.unpack(RING_HEADER, value)
  local cells_end = RING_HEADER_BYTES + SLOTS * ring.size
  ring.format = cell_format(ring.size)
  ring.cells, ring.group = sub(value, RING_HEADER_BYTES + 1, cells_end), sub(value, cells_end + 1)
end

local function encode_ring(ring)
  return struct.pack(RING_HEADER, ring.newest, ring.oldest, ring.total, ring.width, ring.size) .. ring.cells .. ring.group
end

local function cell_amount(ring, cell)
  return (struct.unpack(ring.format, ring.cells, cell % SLOTS * ring.size + 1))
end

local function empty_ring(ring, cell)
  ring.newest, ring.oldest, ring.total, ring.size, ring.format = cell, cell, 0, 2, '<I2'
  ring.cells = string.rep('\0', SLOTS * 2)
end

-- Use more bytes for each cell if `amount` needs them.
local function widen_ring(ring, amount)
  local size = amount < 65536 and 2 or amount < 4294967296 and 4 or 8
  if size <= ring.size then return end
  local cells, format = {}, cell_format(size)
  for slot = 0, CELLS do cells[slot + 1] = struct.pack(format, (cell_amount(ring, slot))) end
  ring.size, ring.format, ring.cells = size, format, table.concat(cells)
end

local function set_cell(ring, cell, amount)
  widen_ring(ring, amount)
  local at = cell % SLOTS * ring.size
  ring.cells = sub(ring.cells, 1, at) .. struct.pack(ring.format, amount) .. sub(ring.cells, at + ring.size + 1)
end

-- Set the cells from `first` to `last` to 0, and return their sum.
local function clear_cells(ring, first, last)
  local sum, size = 0, ring.size
  for cell = first, last do sum = sum + cell_amount(ring, cell) end
  local from, to = first % SLOTS, last % SLOTS
  local cells, zeros = ring.cells, string.rep
  if from <= to then
    ring.cells = sub(cells, 1, from * size) .. zeros('\0', (to - from + 1) * size) .. sub(cells, (to + 1) * size + 1)
  else
    ring.cells = zeros('\0', (to + 1) * size) .. sub(cells, (to + 1) * size + 1, from * size)
      .. zeros('\0', (SLOTS - from) * size)
  end
  return sum
end

-- Move the ring to the cell of now. Cells that have expired are cleared. If the clock was set back, the amounts of all later
-- cells are moved into the current one, so that they expire one window from now.
local function advance_ring(ring, length)
  ring.width = math.ceil(length / CELLS)
  local current = floor(now / ring.width)
  if ring.total == nil or ring.total == 0 then return empty_ring(ring, current) end
  if ring.newest > current then
    local later = clear_cells(ring, max(ring.oldest, current + 1), ring.newest)
    ring.oldest, ring.newest = min(ring.oldest, current), current
    if later > 0 then set_cell(ring, current, cell_amount(ring, current) + later) end
    ring.was_moved = true
  end
  local expired = current - SLOTS
  if ring.newest <= expired then return empty_ring(ring, current) end
  if ring.oldest <= expired then
    ring.total = ring.total - clear_cells(ring, ring.oldest, expired)
    ring.oldest = expired + 1
  end
  if ring.total == 0 then return empty_ring(ring, current) end
  ring.newest = current
end

local function add_to_ring(ring, amount)
  set_cell(ring, ring.newest, cell_amount(ring, ring.newest) + amount)
  ring.total = ring.total + amount
end

-- Subtract an amount from its cell, unless that has expired. What was moved to another cell stays counted.
local function return_to_ring(ring, cell, amount)
  if ring.total == 0 or cell < ring.oldest or cell > ring.newest then return end
  local counted = cell_amount(ring, cell)
  amount = min(amount, counted)
  set_cell(ring, cell, counted - amount)
  ring.total = ring.total - amount
end

-- When the ring will have room for `needed`: the end of the first cell after which it fits; the end of the last one where it
-- never does, and now where the ring is empty.
local function ring_fits_at(ring, needed, limit)
  local left, at = ring.total, now
  for cell = ring.oldest, left > 0 and ring.newest or ring.oldest - 1 do
    local amount = cell_amount(ring, cell)
    if amount > 0 then
      left, at = left - amount, (cell + SLOTS) * ring.width
      if left + needed <= limit then break end
    end
  end
  return max(now, at)
end

-- When the oldest cell expires; now where the ring is empty.
local function ring_resets_at(ring)
  if ring.total == 0 then return now end
  while ring.oldest < ring.newest and cell_amount(ring, ring.oldest) == 0 do ring.oldest = ring.oldest + 1 end
  return max(now, (ring.oldest + SLOTS) * ring.width)
end
