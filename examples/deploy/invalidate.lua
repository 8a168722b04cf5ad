-- Invalidates a key of a namespace, or all keys, in the caches of all processes. For services in other languages and for
-- scripts that have only `redis-cli`:
--
--   redis-cli --eval invalidate.lua 'hotset:{prices}:state' , 0 '"apple"'
--   redis-cli --eval invalidate.lua 'hotset:{prices}:state' , 0
--
-- KEYS[1]: the state of the namespace `prices`. ARGV[1]: the number of the database. ARGV[2]: the key as JSON, which has
-- to be a string or an integer below 2^53; or nothing, for all keys.
-- Returns the time in milliseconds after which no process serves the old value any more, also if it does not receive
-- the message. In a cluster, use `redis-cli -c` with the address of the server that has the namespace.

local function pack(number)
  return struct.pack('>I8', number)
end

local state = redis.call('GET', KEYS[1])
local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not state or string.sub(state, 57, 96) ~= history then
  return redis.error_reply('NOSTATE no cache uses the namespace at the moment: try again in a second')
end
local base = string.match(KEYS[1], '^(hotset:{.*}):state$')
local key = ARGV[2] and cmsgpack.pack(cjson.decode(ARGV[2]))
local id, version = string.sub(state, 1, 8), struct.unpack('>I8', state, 9) + 1
local subject = key and 'k' .. pack(#key) .. key or 'a' .. pack(0)

-- The event names no sender, so nobody waits for acknowledgements.
local event = 'E' .. id .. pack(version) .. pack(0) .. subject
local is_cluster = string.find(redis.call('INFO', 'cluster'), 'cluster_enabled:1', 1, true)
redis.call(is_cluster and 'SPUBLISH' or 'PUBLISH', base .. ':' .. ARGV[1] .. ':events', event)
redis.call('SETRANGE', KEYS[1], 8, pack(version))
if key then
  redis.call('DEL', base .. ':e:' .. key)
else
  redis.call('SETRANGE', KEYS[1], 16, pack(version))
end

local clock = redis.call('TIME')
local last = redis.call('ZRANGE', base .. ':readers', -1, -1, 'WITHSCORES')[2]
if not last then
  -- The set of readers may have been evicted with readers in it. No read lease is longer than this.
  return struct.unpack('>I8', state, 33)
end
return math.max(0, last - clock[1] * 1000 - math.floor(clock[2] / 1000))
