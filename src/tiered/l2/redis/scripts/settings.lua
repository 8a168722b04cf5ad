-- Notes the settings with which processes use a namespace: a hash with the time in ms until which each is kept.
--
-- Further fields say which values are up to date. An invalidation reaches only the layouts to which its process writes,
-- and the values of others remain under their keys.
--   '#current'  the layouts whose values were reached by all invalidations since they were read first,
--   '#16'       the generation of the layout with 16 partitions. A new one is drawn when the layout is read again after
--               it has missed invalidations. A state of another generation is not valid any more.
--
-- A description of settings ends with the layouts that the process uses: ' in 16 partitions', or nothing for a namespace
-- with one partition, or ' in 1 to 16 partitions, moving' with the phase of a change.

-- Returns a description without the layouts, their name, the layouts that the process reads, the order in which it
-- writes to layouts, and whether it copies values from the first one that it reads to the second one.
local function parse_settings(settings)
  local base, from, to, phase = string.match(settings, '^(.*) in (%d+) to (%d+) partitions, (%a+)$')
  if base then
    local reads = {prepared = {from}, moving = {from, to}, moved = {to}, writing = {}}
    return {
      base = base,
      name = from .. ' ' .. to .. ' ' .. phase,
      reads = reads[phase] or {from, to},
      order = {[from] = 1, [to] = 2},
      copies = phase == 'moving',
    }
  end
  local base, count = string.match(settings, '^(.*) in (%d+) partitions$')
  count = count or '1'
  return {base = base or settings, name = count, reads = {count}, order = {[count] = 1}}
end

-- Returns whether a process would miss changes by a writer, or would copy values before it gets them.
local function misses(reader, writer)
  for _, layout in ipairs(reader.reads) do
    if not writer.order[layout] then
      return true
    end
  end
  return reader.copies and writer.order[reader.reads[1]] > writer.order[reader.reads[2]]
end

-- Returns the settings of other processes, without those that were noted too long ago.
local function noted_settings(key, retention)
  local all = {}
  for _, noted in ipairs(redis.call('HKEYS', key)) do
    if string.sub(noted, 1, 1) ~= '#' then
      local left = redis.call('HGET', key, noted) - now()
      -- If more is left than was given, the clock was set back.
      if left <= 0 or left > tonumber(retention) then
        redis.call('HDEL', key, noted)
      else
        table.insert(all, noted)
      end
    end
  end
  return all
end

-- Notes the first of several settings of which the layouts agree with those of all other processes. If `is_query`, notes
-- nothing. Returns the other settings that do not agree, or differ in something else; and the number of the noted
-- settings, or 0 if all are refused.
local function note_settings(key, candidates, retention, is_query)
  local all, refused_for = noted_settings(key, retention), nil
  for number, settings in ipairs(candidates) do
    local own, others, conflicts, is_known = parse_settings(settings), {}, {}, false
    for _, noted in ipairs(all) do
      local other = parse_settings(noted)
      is_known = is_known or other.name == own.name
      if misses(own, other) or misses(other, own) then
        table.insert(conflicts, noted)
      end
      if other.base ~= own.base or misses(own, other) or misses(other, own) then
        table.insert(others, noted)
      end
    end
    if #conflicts == 0 or is_known then
      if not is_query then
        redis.call('HSET', key, settings, now() + retention)
        redis.call('PEXPIRE', key, RETENTION)
      end
      return refused_for or others, number
    end
    refused_for = refused_for or conflicts
  end
  return refused_for, 0
end

-- Notes that a process with these settings, which were accepted, uses the namespace from now on. If `is_query`, it reads
-- nothing. Returns the layouts whose values are up to date, each followed by its generation. That is '' for the first
-- layout of a namespace, and after the hash was lost.
local function use_layouts(key, settings, is_query)
  local own, known, current = parse_settings(settings), redis.call('HGET', key, '#current'), {}
  for layout in string.gmatch(known or '', '%d+') do
    if own.order[layout] then
      table.insert(current, layout)
      current[layout] = true
    end
  end
  for _, layout in ipairs(is_query and {} or own.reads) do
    if not current[layout] then
      table.insert(current, layout)
      if known then
        local generation = string.gsub(ARGV[1], '.', function(byte) return string.format('%02x', string.byte(byte)) end)
        redis.call('HSET', key, '#' .. layout, generation)
      end
    end
  end
  local joined = table.concat(current, ' ')
  if joined ~= known and (known or not is_query) then
    redis.call('HSET', key, '#current', joined)
  end
  local generations = {}
  for _, layout in ipairs(current) do
    table.insert(generations, layout)
    table.insert(generations, redis.call('HGET', key, '#' .. layout) or '')
  end
  return generations
end
