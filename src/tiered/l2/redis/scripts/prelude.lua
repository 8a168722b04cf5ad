-- Precedes each script.
-- KEYS[1]: the state of the namespace, a string. Its numbers have 8 bytes, the most significant first:
--   1   its incarnation,
--   9   version: the number of invalidations,
--   17  clear: the version of the last invalidation of all keys,
--   25  tagged: the version of the last invalidation of a tag,
--   33  lease: the longest read lease so far, in ms,
--   41  tags: the approximate number of tags that were invalidated,
--   49  largest: the size of the largest value so far, in bytes,
--   57  the replication history in which it began: the replication id, and a term.
-- KEYS[2]: the readers, which serve from their L1: a sorted set of peers by the end of their read leases. '' stands for
--   readers that are missing in the set, because it was lost.
-- KEYS[3]: the cells of invalidated tags, a string: see `cells_of`.
-- ARGV[1]: an id for a new incarnation; ARGV[2]: the replication history that the connection has found; ARGV[3]: the
-- duration of read leases, in ms; ARGV[4]: the command to publish with.

local VALUE, LEASE = 'hsV\4', 'hsL\2'

-- The length of the state, except for the replication history.
local NUMBERS = 56

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function pack(number)
  return struct.pack('>I8', number)
end

local function publish(channel, message)
  redis.call(ARGV[4], channel, message)
end

-- Checks whether the server still has the replication history that the connection has found. If not, it may lack writes
-- that another server has confirmed.
local function has_history()
  local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  return id == string.match(ARGV[2], '^%x+')
end

local function other_history()
  return redis.error_reply('HISTORY the server has another replication history')
end

local state = redis.pcall('GET', KEYS[1])
if type(state) ~= 'string' then
  -- There is none, or a list or another type, or an error that the calls below report as well.
  state = ''
end

-- Begins a new incarnation if the state was evicted, or belongs to another replication history after a restart or a
-- failover, because the state may then lack invalidations.
if string.sub(state, NUMBERS + 1) ~= ARGV[2] then
  if not has_history() then
    return other_history()
  end
  local longest, greatest = 0, 0
  if #state == NUMBERS + #ARGV[2] then
    longest, greatest = struct.unpack('>I8', state, 33), struct.unpack('>I8', state, 49)
  end
  state = ARGV[1] .. pack(1) .. pack(0) .. pack(0) .. pack(math.max(longest, ARGV[3])) .. pack(0) .. pack(greatest)
    .. ARGV[2]
  redis.call('DEL', KEYS[2], KEYS[3])
  redis.call('SET', KEYS[1], state)
end

local id = string.sub(state, 1, 8)
local version, clear, tagged, lease, tags, largest = struct.unpack('>I8I8I8I8I8I8', state, 9)

-- Adds '' to the readers if the set is missing, because it may have been lost with readers in it.
local function remember_readers()
  if redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('ZADD', KEYS[2], now() + lease, '')
  end
end

-- The cells are a Bloom filter with versions in place of bits: an invalidation of a tag sets its three cells to the
-- version. All of them have at least the version of the last invalidation of the tag then, and rarely that of others.
-- So the memory of tags is bounded, and a value whose tags were not invalidated is rarely lost. Before the cells is the
-- version up to which they know nothing, because they were evicted.

-- Returns the number of cells.
local function count_cells()
  local length = redis.pcall('STRLEN', KEYS[3])
  -- A list or another type counts as none, because it is replaced.
  return type(length) == 'number' and math.floor(length / 8) - 1 or -1
end

-- Returns the positions of a tag's cells. The index of a cell keeps its low bits when the number of cells is doubled.
local function cells_of(hash, count)
  local first, step = struct.unpack('>I4I4', hash)
  step = step - step % 2 + 1
  local cells = {}
  for cell = 0, 2 do
    cells[cell + 1] = 8 + 8 * ((first + cell * step) % count)
  end
  return cells
end

-- Returns the version in a cell, or at position 0 that up to which the cells know nothing.
local function read_cell(cell)
  return struct.unpack('>I8', redis.call('GETRANGE', KEYS[3], cell, cell + 7))
end

-- Checks whether a tag was invalidated after this version, or may have been.
local function is_tag_newer(hash, begun, count)
  for _, cell in ipairs(cells_of(hash, count)) do
    if read_cell(cell) <= begun then
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
  if begun < clear then
    return false
  end
  local own_tags = string.byte(value, 37)
  if own_tags == 0 or begun >= tagged then
    return true
  end
  if #value < 45 + 8 * own_tags then
    return false
  end
  local count = count_cells()
  if count < 1 or begun < read_cell(0) then
    return false
  end
  for tag = 0, own_tags - 1 do
    if is_tag_newer(string.sub(value, 38 + 8 * tag, 45 + 8 * tag), begun, count) then
      return false
    end
  end
  return true
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

-- Stores a value with a time to live in milliseconds, or without one if it is '0'. Appends the time at which it
-- expires, so that it can be read without a second call.
local function store(key, value, ttl)
  if #value > largest then
    largest = #value
    redis.call('SETRANGE', KEYS[1], 48, pack(largest))
  end
  if ttl == '0' then
    redis.call('SET', key, value .. pack(0))
  else
    redis.call('SET', key, value .. pack(now() + ttl), 'PX', ttl)
  end
end
