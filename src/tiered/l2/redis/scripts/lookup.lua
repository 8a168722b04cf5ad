-- Returns the values of KEYS[4], KEYS[5] and so on. For each key that has none, grants the caller the load lease.
-- ARGV[5]: the duration of load leases, in ms; ARGV[6]: the largest size of a value, in bytes. From ARGV[7] on, each key
-- has three arguments:
--   the token of the lease, or '' if the caller wants none,
--   the token of an unreadable value, or '',
--   the largest size that is returned, in bytes.
-- Returns for each key one of
--   0: no value,
--   1, the remaining time to live in ms, a value, version,
--   2, the remaining time of the lease in ms: another process has the lease,
--   3, id, version: the caller has the lease,
--   4, id, version: the caller has the lease, and replaces a value that is too large,
--   5, size, head, version: a value that is larger than may be returned.

local function lookup(key, token, unreadable, max_size)
  local found = read(key)
  local kind = 3
  if found and string.sub(found, 5, 12) == id then
    if string.sub(found, 1, 4) == LEASE then
      if token == '' then
        return {0}
      end
      -- This call is a retry: the first reply was lost.
      if string.sub(found, 21, 36) == token then
        return {3, id, version}
      end
      local left = redis.call('PTTL', key)
      -- If more is left than was given, the clock was set back, and Redis would keep the lease of a dead process for
      -- too long.
      if #found == 45 and left <= struct.unpack('>I8', found, 38) then
        redis.call('SETRANGE', key, 36, '\1')
        return {2, left}
      end
    elseif is_current(found) and string.sub(found, 21, 36) ~= unreadable then
      -- The deadline at the end does not count.
      if #found - 8 <= tonumber(ARGV[6]) then
        if #found > tonumber(max_size) then
          return {5, #found, string.sub(found, 1, 36), version}
        end
        return {1, redis.call('PTTL', key), found, version}
      end
      kind = 4
    end
  end
  if token == '' then
    return {0}
  end
  redis.call('SET', key, LEASE .. id .. pack(version) .. token .. '\0' .. pack(ARGV[5]), 'PX', ARGV[5])
  return {kind, id, version}
end

if not open(1, ARGV[4], ARGV[2]) then
  return other_history()
end
local replies = {}
for at = 1, #KEYS - 3 do
  local argument = 4 + 3 * at
  replies[at] = lookup(KEYS[3 + at], ARGV[argument], ARGV[argument + 1], ARGV[argument + 2])
end
return replies
