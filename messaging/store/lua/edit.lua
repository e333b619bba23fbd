#!lua
-- Replace the text of a live message; its expiry does not change.
-- Returns {epoch, rev, id, expires_at, edited_at} or a code as in `authorize_change`
-- Uses clock, publish_change, authorize_change
local prefix       = KEYS[1] -- of the partition's keys
local room_id      = ARGV[1]
local user         = ARGV[2] -- user id
local epoch        = ARGV[3] -- '' the present epoch
local seq          = ARGV[4]
local visible_from = ARGV[5] -- seq; '': the user's joining
local body         = ARGV[6]

local key = prefix .. 'room:' .. room_id
local now = now_ms()
local code, message = authorize_change(key, user, epoch, seq, '', visible_from, now)
if code then return code end

local edited_at = string.format('%d', now)
redis.call('HSET', key .. ':msg:' .. seq, 'body', body, 'edited_at', edited_at)
publish_change(key, room_id, seq, message, 'edited', ',"body":' .. cjson.encode(body) .. ',"edited_at":' .. edited_at)
return {message.epoch, message.rev, message.id, message.expires_at, edited_at}
