-- Renews the read leases of several caches, and sends each a heartbeat. Each has four keys: the three of its namespace,
-- and a hash of the settings with which the namespace is used. ARGV[4]: the time to keep settings, in ms. From ARGV[5]
-- on, each cache has seven arguments:
--   the peer, which is added to the readers,
--   the duration of its lease in ms, or 0 if it is removed from them,
--   the duration of read leases in its namespace, in ms,
--   the settings with which it uses the namespace, which are noted; '-' for upkeep without a note; or '' for a renewal
--   without upkeep,
--   the channel of the peer,
--   the number of the heartbeat,
--   the generation of the layout; '' if any will do; or '?' to look it up by the settings that this call notes.
-- Returns the time of the server in ms, and for each cache: id, version, with upkeep the other settings, 1 if the
-- settings are refused (the lease is then not renewed) or 0, and the generation.

-- Removes readers whose leases have ended, and keeps the state.
local function keep()
  for _, peer in ipairs(redis.call('ZRANGEBYSCORE', readers_key, '-inf', now())) do
    if peer ~= '' then
      redis.call('ZREM', readers_key, peer)
    end
  end
  for _, key in ipairs({state_key, readers_key, tags_key}) do
    redis.call('PEXPIRE', key, RETENTION)
  end
end

-- Returns false if the server has another replication history than the connection has found.
local function renew(first, peer, own_lease, read_lease, settings, channel, nonce, generation)
  local settings_key, others, is_refused = KEYS[first + 3], false, false
  -- The first write needs no memory: see `begin_writing`.
  redis.call('HDEL', settings_key, '')
  if settings ~= '' then
    others = {}
    if settings ~= '-' then
      local accepted
      others, accepted = note_settings(settings_key, {settings}, ARGV[4])
      is_refused = accepted == 0
    end
  end
  if generation == '?' then
    generation = is_refused and '' or use_layouts(settings_key, settings, false)[2]
  end
  if not open(first, read_lease, ARGV[2] .. ':' .. generation) then
    return false
  end
  begin_writing()
  if settings ~= '' then
    keep()
  end
  if is_refused then
    return {id, version, others, 1, generation}
  end
  if own_lease == '0' then
    redis.call('ZREM', readers_key, peer)
  else
    redis.call('ZADD', readers_key, now() + own_lease, peer)
  end
  -- Processes that are no readers trust a demoted primary for as long.
  if lease < tonumber(read_lease) then
    redis.call('SETRANGE', state_key, 32, pack(read_lease))
  end
  publish(channel, 'B' .. id .. pack(version) .. pack(nonce))
  return {id, version, others, 0, generation}
end

if not has_history() then
  return other_history()
end
local replies = {}
for at = 0, #KEYS / 4 - 1 do
  local argument = 5 + 7 * at
  replies[at + 1] = renew(1 + 4 * at, unpack(ARGV, argument, argument + 6))
  if not replies[at + 1] then
    return other_history()
  end
end
return {now(), replies}
