-- Precedes the scripts that write more than leases.

-- The time of the server in ms, which does not change while a script is executed.
local time

local function now()
  if not time then
    local clock = redis.call('TIME')
    time = clock[1] * 1000 + math.floor(clock[2] / 1000)
  end
  return time
end

local function publish(channel, message)
  redis.call(ARGV[3], channel, message)
end

-- Stores a value with a time to live in milliseconds, or without one if it is '0'. Appends the time at which it
-- expires, so that it can be read without a second call.
local function store(key, value, ttl)
  if #value > largest then
    largest = #value
    redis.call('SETRANGE', state_key, 48, pack(largest))
  end
  if ttl == '0' then
    redis.call('SET', key, value .. pack(0))
  else
    redis.call('SET', key, value .. pack(now() + ttl), 'PX', ttl)
  end
end

-- Begins a script that raises the version or registers readers. Adds '' to the readers if the set is missing, because
-- it may have been lost with readers in it. When its memory is full, Redis still runs a script that has written before,
-- so it begins with a write that needs no memory.
local function begin_writing()
  redis.call('ZREM', readers_key, ' ')
  if redis.call('EXISTS', readers_key) == 0 then
    redis.call('ZADD', readers_key, now() + lease, '')
    redis.call('PEXPIRE', readers_key, RETENTION)
  end
end
