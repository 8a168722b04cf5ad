-- Precedes the scripts that read or store values.

-- Returns functions for the cells of invalidated tags: one that counts them, one that returns the positions of a tag's
-- cells, and one that returns the version in a cell. They are created by a function, because most calls do not need
-- them.
--
-- The cells are a Bloom filter with versions in place of bits: an invalidation of a tag sets its three cells to the
-- version. All of them have at least the version of the last invalidation of the tag then, and rarely that of others.
-- So the memory of tags is bounded, and a value whose tags were not invalidated is rarely lost. Before the cells, at
-- position 0, is the version up to which they know nothing, because they were evicted.
local function tag_cells()
  local function count()
    local length = redis.pcall('STRLEN', tags_key)
    -- A list or another type counts as none, because it is replaced.
    return type(length) == 'number' and math.floor(length / 8) - 1 or -1
  end
  -- The index of a cell keeps its low bits when the number of cells is doubled.
  local function positions(hash, count)
    local first, step = struct.unpack('>I4I4', hash)
    step = step - step % 2 + 1
    local cells = {}
    for cell = 0, 2 do
      cells[cell + 1] = 8 + 8 * ((first + cell * step) % count)
    end
    return cells
  end
  local function read(position)
    return struct.unpack('>I8', redis.call('GETRANGE', tags_key, position, position + 7))
  end
  return count, positions, read
end

-- Checks that no tag of a value was invalidated since the load began.
local function has_current_tags(value, begun)
  local count, positions, read = tag_cells()
  local own_tags, cells = string.byte(value, 37), count()
  if #value < 45 + 8 * own_tags or cells < 1 or begun < read(0) then
    return false
  end
  for tag = 0, own_tags - 1 do
    local is_newer = true
    for _, cell in ipairs(positions(string.sub(value, 38 + 8 * tag, 45 + 8 * tag), cells)) do
      is_newer = is_newer and read(cell) > begun
    end
    if is_newer then
      return false
    end
  end
  return true
end

-- Checks that a value was not invalidated.
local function is_current(value)
  if string.sub(value, 1, 12) ~= VALUE .. id or #value < 45 then
    return false
  end
  local begun = struct.unpack('>I8', value, 13)
  return begun >= clear and (begun >= tagged or string.byte(value, 37) == 0 or has_current_tags(value, begun))
end

-- Returns the value or the lease under a key, or false if there is none. A list or another type counts as none, because
-- the caller replaces it.
local function read(key)
  local found = redis.pcall('GET', key)
  if type(found) == 'table' and not string.find(found.err, 'WRONGTYPE', 1, true) then
    -- Ends the script with the error, for example if the user may not read the key.
    redis.call('GET', key)
  end
  return type(found) == 'string' and found
end
