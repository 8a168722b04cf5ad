-- Returns the value of KEYS[3], or makes the caller the leader of its load.
-- ARGV[5]: the token to lead under, '' not to lead; ARGV[6]: the lease, in ms; ARGV[7]: the token of an unreadable
-- value, or ''; ARGV[8]: the largest size of a value, in bytes; ARGV[9]: the largest size that is returned, in bytes.
-- Returns one of
--   0: no value,
--   1, the rest of its time to live in ms, a value,
--   2, the rest of the lease in ms: another process leads,
--   3, id, version: the caller leads,
--   4, id, version: the caller leads, and replaces a value that is too large,
--   5, size, head: a value that is larger than ARGV[9].

local held = read(KEYS[3])
local kind = 3
if held and string.sub(held, 5, 12) == id then
  if string.sub(held, 1, 4) == LEASE then
    if ARGV[5] == '' then
      return {0}
    end
    -- This call is a repetition: the first reply was lost.
    if string.sub(held, 21, 36) == ARGV[5] then
      return {3, id, version}
    end
    redis.call('SETRANGE', KEYS[3], 36, '\1')
    return {2, redis.call('PTTL', KEYS[3])}
  end
  if is_current(held) and string.sub(held, 21, 36) ~= ARGV[7] then
    if #held <= tonumber(ARGV[8]) then
      if #held > tonumber(ARGV[9]) then
        return {5, #held, string.sub(held, 1, 36)}
      end
      return {1, redis.call('PTTL', KEYS[3]), held}
    end
    kind = 4
  end
end
if ARGV[5] == '' then
  return {0}
end
redis.call('SET', KEYS[3], LEASE .. id .. pack(version) .. ARGV[5] .. '\0', 'PX', ARGV[6])
return {kind, id, version}
