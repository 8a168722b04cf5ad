-- Raises the version and publishes it with ARGV[5] on ARGV[4]. ARGV[6]: 'k' for the key KEYS[3], 't' for
-- the tag whose hash is ARGV[7], 'a' for all. The key gets the value ARGV[9] for ARGV[10] ms, if what
-- the token ARGV[8] wrote lies there; else it is deleted. Returns id, version, whether the value was
-- stored, and who serves from its L1, each with the ms that are left to it.

local MAX_TAGS = 10000

-- A script that has begun to write goes on where there is no room: what frees none begins.
redis.call('HDEL', KEYS[1], '')
remember_readers()
version = version + 1
-- First: where it may not be published, nothing is numbered.
redis.call('PUBLISH', ARGV[4], 'E' .. id .. pack(version) .. ARGV[5])
redis.call('HSET', KEYS[1], 'ver', version)
local stored = 0
if ARGV[6] == 'k' then
  local held = ARGV[9] ~= '' and redis.call('GET', KEYS[3])
  if held and string.sub(held, 21, 36) == ARGV[8] and is_current(ARGV[9]) then
    store(KEYS[3], ARGV[9], ARGV[10])
    stored = 1
  else
    redis.call('DEL', KEYS[3])
  end
elseif ARGV[6] == 't' then
  if redis.call('HLEN', KEYS[1]) > MAX_TAGS then
    for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
      if #field == 9 then
        redis.call('HDEL', KEYS[1], field)
      end
    end
    redis.call('HSET', KEYS[1], 'tagged', version)
  end
  redis.call('HSET', KEYS[1], 't' .. ARGV[7], version)
else
  redis.call('HSET', KEYS[1], 'clear', version)
end
local time = now()
local readers = {}
for at, field in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. time, '+inf', 'WITHSCORES')) do
  readers[at] = at % 2 == 1 and field or tonumber(field) - time
end
return {id, version, stored, readers}
