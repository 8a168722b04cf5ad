-- Precedes each script.
-- KEYS[1]: the state of the namespace, a hash with the fields
--   id: its incarnation,
--   history: the replication history in which it began: the replication id, and a term,
--   ver: the number of invalidations,
--   clear: the version of the last invalidation of all keys,
--   tagged: the version up to which invalidations of tags are not stored, so that every older value with tags is stale,
--   t<hash>: the version of the last invalidation of a tag,
--   lease: the longest read lease so far, in ms.
-- KEYS[2]: the readers, which serve from their L1: a sorted set of peers by the end of their read leases. '' stands for
--   readers that are missing in the set, because it was lost.
-- ARGV[1]: an id for a new incarnation; ARGV[2]: the replication history that the connection has found; ARGV[3]: the
-- duration of read leases, in ms; ARGV[4]: the command to publish with.

local VALUE, LEASE = 'hsV\3', 'hsL\2'

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function pack(version)
  return struct.pack('>I8', version)
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

local state = redis.call('HMGET', KEYS[1], 'id', 'history', 'ver', 'clear', 'tagged')

-- Begins a new incarnation if the state was evicted, or belongs to another replication history after a restart or a
-- failover, because the state may then lack invalidations.
if not state[1] or state[2] ~= ARGV[2] then
  if not has_history() then
    return other_history()
  end
  local lease = math.max(tonumber(redis.call('HGET', KEYS[1], 'lease') or 0), ARGV[3])
  state = {ARGV[1], ARGV[2], 1, 0, 0}
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('HSET', KEYS[1], 'id', state[1], 'history', state[2], 'ver', 1, 'clear', 0, 'tagged', 0,
    'lease', lease)
end

local id, version = state[1], tonumber(state[3])

-- Adds '' to the readers if the set is missing, because it may have been lost with readers in it.
local function remember_readers()
  if redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('ZADD', KEYS[2], now() + redis.call('HGET', KEYS[1], 'lease'), '')
  end
end

-- Checks that a value was not invalidated.
local function is_current(value)
  if string.sub(value, 1, 4) ~= VALUE or string.sub(value, 5, 12) ~= id then
    return false
  end
  local begun = struct.unpack('>I8', value, 13)
  if begun < tonumber(state[4]) then
    return false
  end
  local tags = string.byte(value, 37)
  if tags == 0 then
    return true
  end
  if begun < tonumber(state[5]) then
    return false
  end
  for tag = 0, tags - 1 do
    local last = redis.call('HGET', KEYS[1], 't' .. string.sub(value, 38 + 8 * tag, 45 + 8 * tag))
    if last and begun < tonumber(last) then
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

-- Stores a value with a time to live in milliseconds, or without one if it is '0'.
local function store(key, value, ttl)
  if ttl == '0' then
    redis.call('SET', key, value)
  else
    redis.call('SET', key, value, 'PX', ttl)
  end
end
