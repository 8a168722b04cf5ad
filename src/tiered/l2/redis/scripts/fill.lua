-- Replaces the lease or the value with the token ARGV[5] under KEYS[4] by the value ARGV[6], with a time to live of
-- ARGV[7] ms. A value of '' releases the lease. If another process waits for the value, publishes ARGV[9] on the
-- channel ARGV[8]. Returns 1 if the value was stored, and 0 otherwise.

local found = read(KEYS[4])
if not found then
  -- The value that a refresh replaces may have expired. If nothing was invalidated since the refresh began, that value
  -- was not, and the new one is stored.
  if ARGV[6] ~= '' and string.sub(ARGV[6], 21, 36) ~= ARGV[5] and string.sub(ARGV[6], 5, 20) == id .. pack(version) then
    store(KEYS[4], ARGV[6], ARGV[7])
    return 1
  end
  return 0
end
local is_lease = string.sub(found, 1, 4) == LEASE
local token = string.sub(found, 21, 36)
if not is_lease and token == string.sub(ARGV[6], 21, 36) then
  -- This call is a retry: the first reply was lost, and the value is stored.
  return is_current(found) and 1 or 0
end
if token ~= ARGV[5] then
  return 0
end
if not is_lease then
  -- A refresh replaces a value. If that fails, the value stays.
  if ARGV[6] == '' or not is_current(ARGV[6]) then
    return 0
  end
  store(KEYS[4], ARGV[6], ARGV[7])
  return 1
end
local stored = 0
if ARGV[6] ~= '' and is_current(ARGV[6]) then
  store(KEYS[4], ARGV[6], ARGV[7])
  stored = 1
else
  redis.call('DEL', KEYS[4])
end
if string.byte(found, 37) == 1 then
  publish(ARGV[8], ARGV[9])
end
return stored
