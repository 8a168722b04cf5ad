-- The value of KEYS[3], or the lead of its load. ARGV[5]: the token to lead under, '' not to;
-- ARGV[6]: the lease, ms; ARGV[7]: the token of a value that is of no use, or ''; ARGV[8]: how many
-- bytes a value may have; ARGV[9]: how many to be returned. Returns a kind: 0 nothing, 1 a value (and what is
-- left of its time), 2 led by another (and what is left of the lease), 3 led by the caller (and id and
-- version), 4 as 3, for a value that is too large, 5 a value that is not returned (and its bytes and head).

local held = read(KEYS[3])
local kind = 3
if held and string.sub(held, 5, 12) == id then
  if string.sub(held, 1, 4) == LEASE then
    if ARGV[5] == '' then
      return {0}
    end
    -- This call was made before, and its reply was lost.
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
