-- Notes the settings with which processes use a namespace: a hash with the time in ms until which each is kept.

-- Returns the number of partitions in a description of settings.
local function partitions_of(settings)
  return string.match(settings, ' in (%d+) partitions$') or '1'
end

-- Notes settings, unless processes use the namespace with another number of partitions, which has other keys and events.
-- If `is_query`, notes nothing. Returns the other settings, and whether these are refused.
local function note_settings(key, settings, retention, is_query)
  local others, is_known, is_other = {}, false, false
  for _, noted in ipairs(redis.call('HKEYS', key)) do
    local left = redis.call('HGET', key, noted) - now()
    -- If more is left than was given, the clock was set back.
    if left <= 0 or left > tonumber(retention) then
      redis.call('HDEL', key, noted)
    else
      if partitions_of(noted) == partitions_of(settings) then
        is_known = true
      else
        is_other = true
      end
      if noted ~= settings then
        table.insert(others, noted)
      end
    end
  end
  local is_refused = is_other and not is_known
  if not is_query and not is_refused then
    redis.call('HSET', key, settings, now() + retention)
    redis.call('PEXPIRE', key, RETENTION)
  end
  return others, is_refused
end
