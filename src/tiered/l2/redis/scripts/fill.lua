-- Replaces leases or values under KEYS[4], KEYS[5] and so on by values. ARGV[5]: the channel of events. From ARGV[6] on,
-- each key has four arguments:
--   the token of the lease or of the value that is replaced,
--   the new value, or '' to release the lease,
--   its time to live in ms, or 0,
--   the message for ARGV[5] if another process waits for the value.
-- Returns for each key 1 if the value was stored, and 0 otherwise.

local function fill(key, expected, value, ttl, message)
  local found = read(key)
  local own = string.sub(value, 21, 36)
  if not found then
    -- The value that a refresh replaces may have expired. If nothing was invalidated since the refresh began, that
    -- value was not, and the new one is stored.
    if value ~= '' and own ~= expected and string.sub(value, 5, 20) == id .. pack(version) then
      store(key, value, ttl)
      return 1
    end
    return 0
  end
  local is_lease = string.sub(found, 1, 4) == LEASE
  local token = string.sub(found, 21, 36)
  if not is_lease and token == own then
    -- This call is a retry: the first reply was lost, and the value is stored.
    return is_current(found) and 1 or 0
  end
  if token ~= expected then
    return 0
  end
  if value ~= '' and is_current(value) then
    store(key, value, ttl)
  elseif is_lease then
    redis.call('DEL', key)
    value = ''
  else
    -- A refresh replaces a value. If that fails, the value stays.
    return 0
  end
  if is_lease and string.byte(found, 37) == 1 then
    publish(ARGV[5], message)
  end
  return value == '' and 0 or 1
end

if not open(1, ARGV[4], ARGV[2]) then
  return other_history()
end
local stored = {}
for at = 1, #KEYS - 3 do
  local argument = 2 + 4 * at
  stored[at] = fill(KEYS[3 + at], ARGV[argument], ARGV[argument + 1], ARGV[argument + 2], ARGV[argument + 3])
end
return stored
