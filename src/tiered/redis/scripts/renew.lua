-- The peer ARGV[4] serves from its L1 for ARGV[5] ms from now (0: it does not), and is sent a beat on
-- ARGV[6] with the number ARGV[7].

local KEPT = 30 * 24 * 3600 * 1000

-- A script that has begun to write goes on where there is no room: what frees none begins.
redis.call('HDEL', KEYS[1], '')
remember_readers()
local time = now()
for _, peer in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', time)) do
  if peer ~= '' then
    redis.call('ZREM', KEYS[2], peer)
  end
end
if ARGV[5] == '0' then
  redis.call('ZREM', KEYS[2], ARGV[4])
else
  redis.call('ZADD', KEYS[2], time + ARGV[5], ARGV[4])
  if tonumber(redis.call('HGET', KEYS[1], 'lease')) < tonumber(ARGV[5]) then
    redis.call('HSET', KEYS[1], 'lease', ARGV[5])
  end
end
redis.call('PEXPIRE', KEYS[1], KEPT)
redis.call('PEXPIRE', KEYS[2], KEPT)
redis.call('PUBLISH', ARGV[6], 'B' .. id .. pack(version) .. struct.pack('>I8', ARGV[7]))
return 1
