-- The period in which messages of a room may be missing: 'from|to' (epoch ms). It is told for a day.

-- Return the period if it is to be told, '' if not. `doubt`: the field of the room's Hash.
local function recent_doubt(doubt, now)
  local to = tonumber(doubt and string.match(doubt, '%d+$'))
  return to and to > now - 86400000 and doubt or ''
end
