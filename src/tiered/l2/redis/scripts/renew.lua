-- Adds the peer ARGV[5] to the readers for ARGV[6] ms from now, or removes it if that is 0. Publishes a heartbeat with
-- the number ARGV[8] on its channel ARGV[7]. Keeps the state of the namespace for ARGV[9] ms.

if not has_history() then
  return other_history()
end
-- When its memory is full, Redis still runs a script that has written before. So it begins with a write that needs no
-- memory.
redis.call('HDEL', KEYS[1], '')
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
  if tonumber(redis.call('HGET', KEYS[1], 'lease')) < tonumber(ARGV[6]) then
    redis.call('HSET', KEYS[1], 'lease', ARGV[6])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[9])
redis.call('PEXPIRE', KEYS[2], ARGV[9])
publish(ARGV[7], 'B' .. id .. pack(version) .. struct.pack('>I8', ARGV[8]))
return 1
