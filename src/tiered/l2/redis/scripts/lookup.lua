-- Returns the value of KEYS[4]. If there is none, grants the caller the load lease.
-- ARGV[5]: the token of the lease, or '' if the caller wants none; ARGV[6]: the duration of the lease, in ms; ARGV[7]:
-- the token of an unreadable value, or ''; ARGV[8]: the largest size of a value, in bytes; ARGV[9]: the largest size
-- that is returned, in bytes.
-- Returns one of
--   0: no value,
--   1, the remaining time to live in ms, a value, version,
--   2, the remaining time of the lease in ms: another process has the lease,
--   3, id, version: the caller has the lease,
--   4, id, version: the caller has the lease, and replaces a value that is too large,
--   5, size, head, version: a value that is larger than ARGV[9].

local found = read(KEYS[4])
local kind = 3
if found and string.sub(found, 5, 12) == id then
  if string.sub(found, 1, 4) == LEASE then
    if ARGV[5] == '' then
      return {0}
    end
    -- This call is a retry: the first reply was lost.
    if string.sub(found, 21, 36) == ARGV[5] then
      return {3, id, version}
    end
    local left = redis.call('PTTL', KEYS[4])
    -- If more is left than was given, the clock was set back, and Redis would keep the lease of a dead process for too
    -- long.
    if #found == 45 and left <= struct.unpack('>I8', found, 38) then
      redis.call('SETRANGE', KEYS[4], 36, '\1')
      return {2, left}
    end
  end
  if is_current(found) and string.sub(found, 21, 36) ~= ARGV[7] then
    -- The deadline at the end does not count.
    if #found - 8 <= tonumber(ARGV[8]) then
      if #found > tonumber(ARGV[9]) then
        return {5, #found, string.sub(found, 1, 36), version}
      end
      return {1, redis.call('PTTL', KEYS[4]), found, version}
    end
    kind = 4
  end
end
if ARGV[5] == '' then
  return {0}
end
local lease = LEASE .. id .. pack(version) .. ARGV[5] .. '\0' .. pack(ARGV[6])
redis.call('SET', KEYS[4], lease, 'PX', ARGV[6])
return {kind, id, version}
