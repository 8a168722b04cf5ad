-- Notes the settings of a namespace with several partitions where those of one partition are noted. KEYS[1]: the hash.
-- ARGV[4]: the time to keep settings, in ms; ARGV[5]: the settings; ARGV[6]: '1' to note nothing. Returns the other
-- settings, and 1 if these are refused, else 0.

local others, is_refused = note_settings(KEYS[1], ARGV[5], ARGV[4], ARGV[6] == '1')
return {others, is_refused and 1 or 0}
