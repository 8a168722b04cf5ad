-- Puts ARGV[6] in place of what the token ARGV[5] wrote, a lease, for ARGV[7] ms; '' gives the lease back.
-- If somebody waits for it, ARGV[9] is published on ARGV[8]. Returns 1 if the value was stored.

local held = read(KEYS[3])
if not held or string.sub(held, 21, 36) ~= ARGV[5] then
  return 0
end
if string.sub(held, 1, 4) ~= LEASE then
  -- This call was made before, and its reply was lost: the value is stored.
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
