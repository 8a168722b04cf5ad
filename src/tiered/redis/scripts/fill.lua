-- Puts ARGV[5] in place of what the token ARGV[4] wrote, a lease, for ARGV[6] ms; '' gives the lease back.
-- If somebody waits for it, ARGV[8] is published on ARGV[7]. Returns 1 if the value was stored.

local held = redis.call('GET', KEYS[3])
if not held or string.sub(held, 1, 4) ~= LEASE or string.sub(held, 21, 36) ~= ARGV[4] then
  return 0
end
local stored = 0
if ARGV[5] ~= '' and is_current(ARGV[5]) then
  store(KEYS[3], ARGV[5], ARGV[6])
  stored = 1
else
  redis.call('DEL', KEYS[3])
end
if string.byte(held, 37) == 1 then
  redis.call('PUBLISH', ARGV[7], ARGV[8])
end
return stored
