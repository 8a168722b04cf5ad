-- Invalidates a key of a namespace, or all keys, in the caches of all processes. For services in other languages and for
-- scripts that have only `redis-cli`:
--
--   redis-cli --eval invalidate.lua 'hotset:{prices}:state' , 0 '"apple"'
--   redis-cli --eval invalidate.lua 'hotset:{prices}:state' , 0
--
-- KEYS[1]: the state of the namespace `prices`. ARGV[1]: the number of the database. ARGV[2]: the key as JSON, which has
-- to be a string or an integer below 2^53; or nothing, for all keys.
--
-- Returns the time in milliseconds after which no cache of the class Realtime serves the old value any more, even one
-- that does not receive the message. Unlike a cache, the script cannot know whether the server is still the primary: run
-- it on the current one. In a cluster, use `redis-cli -c`.
--
-- A user needs these rights in addition to those of `hotset` in users.acl: +eval.

local function pack(number)
  return struct.pack('>I8', number)
end

local state = redis.call('GET', KEYS[1])
local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not state or string.sub(state, 57, 96) ~= history then
  return redis.error_reply('NOSTATE no cache uses the namespace at the moment: try again in a second')
end
local base = string.match(KEYS[1], '^(hotset:{.*}):state$')
local layouts = redis.call('HGET', base .. ':settings', '#current')
if layouts and layouts ~= '1' then
  return redis.error_reply('PARTITIONS the namespace has several partitions: use an Invalidator or hotset-cli')
end
local readers = base .. ':readers'
local key = ARGV[2] and cmsgpack.pack(cjson.decode(ARGV[2]))
local id, version, lease = string.sub(state, 1, 8), struct.unpack('>I8', state, 9) + 1, struct.unpack('>I8', state, 33)

-- The time until the last read lease ends. If the set of readers was evicted, it may have had any.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local wait = redis.call('EXISTS', readers) == 0 and lease or 0
for at, field in ipairs(redis.call('ZRANGEBYSCORE', readers, '(' .. now, '+inf', 'WITHSCORES')) do
  if at % 2 == 0 then
    wait = math.max(wait, math.min(field - now, lease))
  end
end

-- When its memory is full, Redis still runs a script that has written before, so the first write needs no memory.
redis.call('ZREM', readers, ' ')
-- The event names no sender, so no process acknowledges it.
local event = 'E' .. id .. pack(version) .. pack(0) .. (key and 'k' .. pack(#key) .. key or 'a' .. pack(0))
local server = redis.call('INFO', 'server')
local is_cluster = string.find(server, '_mode:cluster') and not string.find(server, 'redis_version:[1-6]%.')
redis.call(is_cluster and 'SPUBLISH' or 'PUBLISH', base .. ':' .. ARGV[1] .. ':events', event)
redis.call('SETRANGE', KEYS[1], 8, pack(version))
if key then
  redis.call('DEL', base .. ':e:' .. key)
else
  redis.call('SETRANGE', KEYS[1], 16, pack(version))
end
return wait
