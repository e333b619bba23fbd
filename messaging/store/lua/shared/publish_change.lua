-- Return the rev of a room's next change. A rev is never given twice: the first change after a restart of the store skips ahead.
local function next_rev(rev, rev_life)
  return string.format('%d', tonumber(rev) + (rev_life == LIFE and 1 or 1048577))
end

-- Number a change of a message, keep it for offline members, and publish it. `fields`: JSON of the frame's further fields.
local function publish_change(key, room_id, seq, message, kind, fields)
  redis.call('HSET', key, 'rev', message.rev, 'rev_life', LIFE)
  redis.call('ZADD', key .. ':changed', message.rev, seq)
  redis.call('PUBLISH', key, 'C ' .. message.epoch .. '\n' .. message.rev .. ' ' .. seq .. ' ' .. message.sender .. ' ' .. message.only
    .. '\n{"type":"' .. kind .. '","room":"' .. room_id .. '","epoch":"' .. message.epoch .. '","rev":' .. message.rev
    .. ',"seq":' .. seq .. fields .. '}')
end
