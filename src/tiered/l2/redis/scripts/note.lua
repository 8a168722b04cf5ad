-- Notes the settings of a namespace where those of one partition are noted. KEYS[1]: the hash. ARGV[4]: the time to keep
-- settings, in ms; ARGV[5]: '1' for an invalidator, which reads nothing and is not noted; from ARGV[6] on: the settings,
-- of which the first ones that agree with all others are noted. Returns the other settings; the number of the noted
-- ones, or 0 if all are refused; and the layouts whose values are up to date, each followed by its generation.

-- The first write needs no memory: see `begin_writing`.
redis.call('HDEL', KEYS[1], '')
local candidates = {unpack(ARGV, 6)}
local others, number = note_settings(KEYS[1], candidates, ARGV[4], ARGV[5] == '1')
local generations = {}
if number > 0 then
  generations = use_layouts(KEYS[1], candidates[number], ARGV[5] == '1')
end
return {others, number, generations}
