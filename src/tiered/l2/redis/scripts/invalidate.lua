-- Increments the version, and publishes it with ARGV[6] on the channel ARGV[5].
-- ARGV[7]: 'k' for the key KEYS[3], 't' for the tag with the hash ARGV[8], 'a' for all keys.
-- If the token under the key is ARGV[9], the key gets the value ARGV[10] with a time to live of ARGV[11] ms. Otherwise,
-- or if the value is '', it is deleted. Returns id, version, 1 if that token was under the key, and the readers, each
-- with the remaining time of its lease in ms.

local MAX_TAGS = 10000

if not has_history() then
  return other_history()
end
-- When its memory is full, Redis still runs a script that has written before. So it begins with a write that needs no
-- memory.
redis.call('HDEL', KEYS[1], '')
remember_readers()
version = version + 1
-- The publication comes first: if the user lacks the right to publish, the version is not incremented.
publish(ARGV[5], 'E' .. id .. pack(version) .. ARGV[6])
redis.call('HSET', KEYS[1], 'ver', version)
local untouched = 0
if ARGV[7] == 'k' then
  local found = ARGV[9] ~= '' and read(KEYS[3])
  local token = found and string.sub(found, 21, 36)
  local is_new = ARGV[10] ~= '' and token == string.sub(ARGV[10], 21, 36)
  -- The expected value or lease may have expired. If there was no other invalidation since, no other process has
  -- written the key.
  local has_expired = ARGV[9] ~= '' and not found and string.sub(ARGV[10], 5, 20) == id .. pack(version - 1)
  if is_new and is_current(found) then
    -- This call is a retry: the first reply was lost, and the value is stored.
    untouched = 1
  elseif (token == ARGV[9] or has_expired) and ARGV[10] ~= '' and is_current(ARGV[10]) then
    store(KEYS[3], ARGV[10], ARGV[11])
    untouched = 1
  else
    if token == ARGV[9] and ARGV[10] == '' and string.sub(found, 5, 12) == id then
      untouched = 1
    end
    redis.call('DEL', KEYS[3])
  end
elseif ARGV[7] == 't' then
  if redis.call('HLEN', KEYS[1]) > MAX_TAGS then
    for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
      if #field == 9 then
        redis.call('HDEL', KEYS[1], field)
      end
    end
    redis.call('HSET', KEYS[1], 'tagged', version)
  end
  redis.call('HSET', KEYS[1], 't' .. ARGV[8], version)
else
  redis.call('HSET', KEYS[1], 'clear', version)
end
local time = now()
-- The remaining time is at most that of the longest lease, even if the clock was set back.
local max_lease = tonumber(redis.call('HGET', KEYS[1], 'lease'))
local readers = {}
for at, field in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. time, '+inf', 'WITHSCORES')) do
  readers[at] = at % 2 == 1 and field or math.min(field - time, max_lease)
end
return {id, version, untouched, readers}
