-- Increments the version, and publishes it with ARGV[6] on the channel ARGV[5]. From ARGV[7] on, each invalidation has
-- five arguments:
--   kind: 'k' for the next key of those from KEYS[4] on, 't' for a tag, 'a' for all keys,
--   the hash of the tag, or '',
--   the token that the value of the key replaces, or '*' if it replaces whatever is there,
--   the value, or '',
--   its time to live in ms, or 0.
-- If the expected token is not under the key, or the value is '', the key is deleted. Returns id, version, for each
-- invalidation 1 if the expected token was under its key, and the readers, each with the remaining time of its lease in
-- ms.

-- The number of cells after the first invalidation of a tag, and at most. They take 8 KiB, and 1 MiB.
local MIN_CELLS, MAX_CELLS = 1024, 131072

-- The number of cells for each tag, below which the number of cells is doubled.
local CELLS_PER_TAG = 64

-- Sets the cells of a tag to the version.
local function invalidate_tag(hash)
  local count_cells, positions, read_cell = tag_cells()
  local count = count_cells()
  if count < MIN_CELLS then
    -- Cells that were evicted may have had any version up to that of the last invalidation of a tag.
    count = MIN_CELLS
    redis.call('SET', tags_key, pack(tagged) .. string.rep('\0', 8 * count))
  elseif tags * CELLS_PER_TAG > count and count < MAX_CELLS then
    -- A tag then has its cells in both halves, but only one of them counts. The server may refuse a string of that
    -- size.
    local length = redis.pcall('APPEND', tags_key, redis.call('GETRANGE', tags_key, 8, -1))
    count = type(length) == 'number' and 2 * count or count
  end
  local is_new = 0
  for _, cell in ipairs(positions(hash, count)) do
    if read_cell(cell) == 0 then
      is_new = 1
    end
    redis.call('SETRANGE', tags_key, cell, pack(version))
  end
  tagged, tags = version, tags + is_new
  redis.call('SETRANGE', state_key, 24, pack(tagged) .. pack(lease) .. pack(tags))
end

-- The keys that earlier invalidations of this call concern.
local earlier = {}

-- Deletes the value under a key, or replaces it. Returns 1 if the expected token was there, and 0 otherwise.
local function invalidate_key(key, expected, value, ttl)
  local replaces_any = expected == '*'
  local found = expected ~= '' and not replaces_any and read(key)
  local token = found and string.sub(found, 21, 36)
  local is_new = value ~= '' and token == string.sub(value, 21, 36)
  -- The expected value or lease may have expired. If there was no other invalidation since, no other process has
  -- written the key.
  local has_expired = expected ~= '' and not found and not earlier[key]
    and string.sub(value, 5, 20) == id .. pack(version - 1)
  earlier[key] = true
  if is_new and is_current(found) then
    -- This call is a retry: the first reply was lost, and the value is stored.
    return 1
  end
  if (replaces_any or token == expected or has_expired) and value ~= '' and is_current(value) then
    store(key, value, ttl)
    return 1
  end
  redis.call('DEL', key)
  return token == expected and value == '' and string.sub(found, 5, 12) == id and 1 or 0
end

if not open(1, ARGV[4], ARGV[2]) or not has_history() then
  return other_history()
end
begin_writing()
version = version + 1
-- The publication comes first: if the user lacks the right to publish, the version is not incremented.
publish(ARGV[5], 'E' .. id .. pack(version) .. ARGV[6])
redis.call('SETRANGE', state_key, 8, pack(version))
local untouched, key = {}, 3
for at = 7, #ARGV, 5 do
  local kind, result = ARGV[at], 0
  if kind == 'k' then
    key = key + 1
    result = invalidate_key(KEYS[key], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
  elseif kind == 't' then
    invalidate_tag(ARGV[at + 1])
  else
    clear = version
    redis.call('SETRANGE', state_key, 16, pack(clear))
  end
  untouched[#untouched + 1] = result
end
-- The remaining time is at most that of the longest lease, even if the clock was set back.
local readers = {}
for at, field in ipairs(redis.call('ZRANGEBYSCORE', readers_key, '(' .. now(), '+inf', 'WITHSCORES')) do
  readers[at] = at % 2 == 1 and field or math.min(field - now(), lease)
end
return {id, version, untouched, readers}
