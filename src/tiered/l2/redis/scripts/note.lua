-- Notes the settings of a namespace with several partitions where those of one partition are noted. KEYS[1]: the hash.
-- ARGV[4]: the time to keep settings, in ms; ARGV[5]: '1' to note nothing; from ARGV[6] on: the settings, of which the
-- first ones that agree with all others are noted. Returns the other settings, and the number of the noted ones, or 0 if
-- all are refused.

local candidates = {unpack(ARGV, 6)}
local others, number = note_settings(KEYS[1], candidates, ARGV[4], ARGV[5] == '1')
return {others, number}
