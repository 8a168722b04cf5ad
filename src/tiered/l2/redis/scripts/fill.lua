-- Replaces the lease with the token ARGV[5] under KEYS[3] by the value ARGV[6] for ARGV[7] ms. A value of '' gives the
-- lease back. If another process waits for the value, publishes ARGV[9] on the channel ARGV[8]. Returns 1 if the value
-- was stored, and 0 otherwise.

local held = read(KEYS[3])
if not held or string.sub(held, 21, 36) ~= ARGV[5] then
  return 0
end
if string.sub(held, 1, 4) ~= LEASE then
  -- This call is a repetition: the first reply was lost, and the value is stored.
  return (ARGV[6] ~= '' and is_current(held)) and 1 or 0
end
local stored = 0
if ARGV[6] ~= '' and is_current(ARGV[6]) then
  store(KEYS[3], ARGV[6], ARGV[7])
  stored = 1
else
  redis.call('DEL', KEYS[3])
end
if string.byte(held, 37) == 1 then
  publish(ARGV[8], ARGV[9])
end
return stored
