-- Return the rev of a room's next change. A rev is never given twice: the first change of a store's new life skips ahead.
local function next_rev(rev, rev_life)
  return string.format('%d', tonumber(rev) + (rev_life == LIFE and 1 or 1048577))
end

-- Number a change of a message, keep it for readers who are away, and publish it. `fields`: JSON of the frame, after its position.
local function publish_change(key, room_id, seq, message, kind, fields)
  redis.call('HSET', key, 'rev', message.rev, 'rev_life', LIFE)
  redis.call('ZADD', key .. ':changed', message.rev, seq)
  redis.call('PUBLISH', key, 'C ' .. message.epoch .. '\n' .. message.rev .. ' ' .. seq .. ' ' .. message.sender .. ' ' .. message.only
    .. '\n{"type":"' .. kind .. '","room":"' .. room_id .. '","epoch":"' .. message.epoch .. '","rev":' .. message.rev
    .. ',"seq":' .. seq .. fields .. '}')
end
