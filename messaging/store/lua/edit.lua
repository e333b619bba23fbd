#!lua
-- Give a live message another text; its life stays as it is.
-- KEYS[1] partition prefix; ARGV: room, user, epoch ('' the present one), seq, visible from (seq, '' joining), body
-- Returns {epoch, rev, id, expires_at, edited_at} or a code as in `authorize_change`
local room, user, seq, body = ARGV[1], ARGV[2], ARGV[4], ARGV[6]
local key = KEYS[1] .. 'room:' .. room
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local refused, message = authorize_change(key, user, ARGV[3], seq, '', ARGV[5], now)
if refused then return refused end

local edited_at = string.format('%d', now)
redis.call('HSET', key .. ':msg:' .. seq, 'body', body, 'edited_at', edited_at)
publish_change(key, room, seq, message, 'edited', ',"body":' .. cjson.encode(body) .. ',"edited_at":' .. edited_at)
return {message.epoch, message.rev, message.id, message.expires_at, edited_at}
