-- Number a change of a message, remember it for those who are away, and tell the room. `fields`: what the frame says beside its place.
local function publish_change(key, room, seq, message, kind, fields)
  redis.call('HSET', key, 'rev', message.rev, 'rev_life', LIFE)
  redis.call('ZADD', key .. ':changed', message.rev, seq)
  redis.call('PUBLISH', key, 'C ' .. message.epoch .. '\n' .. message.rev .. ' ' .. seq .. ' ' .. message.sender .. ' ' .. message.only
    .. '\n{"type":"' .. kind .. '","room":"' .. room .. '","epoch":"' .. message.epoch .. '","rev":' .. message.rev
    .. ',"seq":' .. seq .. fields .. '}')
end
