-- Precedes each script. A namespace has three keys:
-- 1. The state, a string. Its numbers have 8 bytes, the most significant first:
--      1   its incarnation,
--      9   version: the number of invalidations,
--      17  clear: the version of the last invalidation of all keys,
--      25  tagged: the version of the last invalidation of a tag,
--      33  lease: the longest read lease so far, in ms,
--      41  tags: the approximate number of tags that were invalidated,
--      49  largest: the size of the largest value so far, in bytes,
--      57  the history in which it began: the replication id, a term, and the generation of its layout, with colons
--          in between. The generation is empty if the process that began it knew none.
-- 2. The readers, which serve from their L1: a sorted set of peers by the end of their read leases. '' stands for
--    readers that are missing in the set, because it was lost.
-- 3. The cells of invalidated tags, a string: see `tag_cells`.
-- ARGV[1]: an id for a new incarnation; ARGV[2]: the replication history that the connection has found; ARGV[3]: the
-- command to publish with. Scripts of a single namespace: ARGV[2] ends with ':' and the generation; ARGV[4] is the
-- duration of its read leases, in ms.

local VALUE, LEASE = 'hsV\4', 'hsL\2'

-- The time for which the keys of a namespace are kept after its last heartbeat, in ms: 30 days.
local RETENTION = 30 * 24 * 3600 * 1000

-- The length of the state, except for the replication history.
local NUMBERS = 56

-- The keys of the open namespace, and the numbers of its state.
local state_key, readers_key, tags_key
local id, version, clear, tagged, lease, tags, largest

local function pack(number)
  return struct.pack('>I8', number)
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

-- Checks whether a state that began in one history is still valid in another one. A history that ends with ':' has no
-- generation, and agrees with every one.
local function is_same_history(began, history)
  return began == history or string.sub(history, -1) == ':' and string.sub(began, 1, #history) == history
end

-- Opens the namespace whose keys begin at KEYS[first]. Begins a new incarnation if the state was evicted; if it belongs
-- to another replication history after a restart or a failover; or if it belongs to another generation, because
-- processes used another number of partitions meanwhile. In all these cases it may lack invalidations. Returns false if
-- the server has another replication history than the connection has found.
local function open(first, read_lease, history)
  state_key, readers_key, tags_key = KEYS[first], KEYS[first + 1], KEYS[first + 2]
  local state = redis.pcall('GET', state_key)
  if type(state) ~= 'string' then
    -- There is none, or a list or another type, or an error that the calls below report as well.
    state = ''
  end
  local began = string.sub(state, NUMBERS + 1)
  if not is_same_history(began, history) then
    if not has_history() then
      return false
    end
    local longest, greatest = 0, 0
    if string.find(began, '^%x+ *:%x+:%x*$') then
      longest, greatest = struct.unpack('>I8', state, 33), struct.unpack('>I8', state, 49)
    end
    state = ARGV[1] .. pack(1) .. pack(0) .. pack(0) .. pack(math.max(longest, read_lease)) .. pack(0)
      .. pack(greatest) .. history
    redis.call('DEL', readers_key, tags_key)
    redis.call('SET', state_key, state, 'PX', RETENTION)
  end
  id = string.sub(state, 1, 8)
  version, clear, tagged, lease, tags, largest = struct.unpack('>I8I8I8I8I8I8', state, 9)
  return true
end
