-- Adds the peer ARGV[5] to the readers for ARGV[6] ms from now, or removes it if that is 0. Publishes a heartbeat with
-- the number ARGV[8] on its channel ARGV[7]. Keeps the state of the namespace for ARGV[9] ms. Notes in the hash
-- KEYS[4], for ARGV[11] ms, that the namespace is used with the settings ARGV[10]. Returns the time of the server in
-- ms, the other settings with which the namespace is used, id, and version.

if not has_history() then
  return other_history()
end
-- When its memory is full, Redis still runs a script that has written before. So it begins with a write that needs no
-- memory.
redis.call('ZREM', KEYS[2], ' ')
remember_readers()
local time = now()
for _, peer in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', time)) do
  if peer ~= '' then
    redis.call('ZREM', KEYS[2], peer)
  end
end
if ARGV[6] == '0' then
  redis.call('ZREM', KEYS[2], ARGV[5])
else
  redis.call('ZADD', KEYS[2], time + ARGV[6], ARGV[5])
end
-- Processes that are no readers trust a demoted primary for as long.
if lease < tonumber(ARGV[3]) then
  redis.call('SETRANGE', KEYS[1], 32, pack(ARGV[3]))
end
redis.call('HSET', KEYS[4], ARGV[10], time + ARGV[11])
redis.call('PEXPIRE', KEYS[4], ARGV[9])
local others = {}
for _, settings in ipairs(redis.call('HKEYS', KEYS[4])) do
  local left = redis.call('HGET', KEYS[4], settings) - time
  -- If more is left than was given, the clock was set back.
  if left <= 0 or left > tonumber(ARGV[11]) then
    redis.call('HDEL', KEYS[4], settings)
  elseif settings ~= ARGV[10] then
    table.insert(others, settings)
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[9])
redis.call('PEXPIRE', KEYS[2], ARGV[9])
redis.call('PEXPIRE', KEYS[3], ARGV[9])
publish(ARGV[7], 'B' .. id .. pack(version) .. pack(ARGV[8]))
return {time, others, id, version}
