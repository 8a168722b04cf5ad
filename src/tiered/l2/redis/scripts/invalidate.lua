-- Increments the version, and publishes it with ARGV[6] on the channel ARGV[5].
-- ARGV[7]: 'k' for the key KEYS[4], 't' for the tag with the hash ARGV[8], 'a' for all keys.
-- If the token under the key is ARGV[9], or ARGV[9] is '*', the key gets the value ARGV[10] with a time to live of
-- ARGV[11] ms. Otherwise, or if the value is '', it is deleted. Returns id, version, 1 if that token was under the key
-- or a value replaced whatever was there, and the readers, each with the remaining time of its lease in ms.

-- The number of cells after the first invalidation of a tag, and at most. They take 8 KiB, and 1 MiB.
local MIN_CELLS, MAX_CELLS = 1024, 131072

-- The number of cells for each tag, below which the number of cells is doubled.
local CELLS_PER_TAG = 64

-- Sets the cells of a tag to the version.
local function invalidate_tag(hash)
  local count = count_cells()
  if count < MIN_CELLS then
    -- Cells that were evicted may have had any version up to that of the last invalidation of a tag.
    count = MIN_CELLS
    redis.call('SET', KEYS[3], pack(tagged) .. string.rep('\0', 8 * count))
  elseif tags * CELLS_PER_TAG > count and count < MAX_CELLS then
    -- A tag then has its cells in both halves, but only one of them counts. The server may refuse a string of that
    -- size.
    local length = redis.pcall('APPEND', KEYS[3], redis.call('GETRANGE', KEYS[3], 8, -1))
    count = type(length) == 'number' and 2 * count or count
  end
  local is_new = 0
  for _, cell in ipairs(cells_of(hash, count)) do
    if read_cell(cell) == 0 then
      is_new = 1
    end
    redis.call('SETRANGE', KEYS[3], cell, pack(version))
  end
  redis.call('SETRANGE', KEYS[1], 24, pack(version) .. pack(lease) .. pack(tags + is_new))
end

if not has_history() then
  return other_history()
end
-- When its memory is full, Redis still runs a script that has written before. So it begins with a write that needs no
-- memory.
redis.call('ZREM', KEYS[2], ' ')
remember_readers()
version = version + 1
-- The publication comes first: if the user lacks the right to publish, the version is not incremented.
publish(ARGV[5], 'E' .. id .. pack(version) .. ARGV[6])
redis.call('SETRANGE', KEYS[1], 8, pack(version))
local untouched = 0
if ARGV[7] == 'k' then
  local replaces_any = ARGV[9] == '*'
  local found = ARGV[9] ~= '' and not replaces_any and read(KEYS[4])
  local token = found and string.sub(found, 21, 36)
  local is_new = ARGV[10] ~= '' and token == string.sub(ARGV[10], 21, 36)
  -- The expected value or lease may have expired. If there was no other invalidation since, no other process has
  -- written the key.
  local has_expired = ARGV[9] ~= '' and not found and string.sub(ARGV[10], 5, 20) == id .. pack(version - 1)
  if is_new and is_current(found) then
    -- This call is a retry: the first reply was lost, and the value is stored.
    untouched = 1
  elseif (replaces_any or token == ARGV[9] or has_expired) and ARGV[10] ~= '' and is_current(ARGV[10]) then
    store(KEYS[4], ARGV[10], ARGV[11])
    untouched = 1
  else
    if token == ARGV[9] and ARGV[10] == '' and string.sub(found, 5, 12) == id then
      untouched = 1
    end
    redis.call('DEL', KEYS[4])
  end
elseif ARGV[7] == 't' then
  invalidate_tag(ARGV[8])
else
  redis.call('SETRANGE', KEYS[1], 16, pack(version))
end
local time = now()
-- The remaining time is at most that of the longest lease, even if the clock was set back.
local readers = {}
for at, field in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. time, '+inf', 'WITHSCORES')) do
  readers[at] = at % 2 == 1 and field or math.min(field - time, lease)
end
return {id, version, untouched, readers}
