#!lua
-- Extend the life of a live message to now + TTL; it is never shortened.
-- Returns {epoch, rev, id, expires_at, ''} or a code as in `authorize_change`
-- Uses clock, publish_change, authorize_change
-- Uses entries: index_entry
local prefix       = KEYS[1]           -- of the partition's keys
local room_id      = ARGV[1]
local user         = ARGV[2]           -- user id
local epoch        = ARGV[3]           -- '' the present epoch
local seq          = ARGV[4]
local visible_from = ARGV[5]           -- seq; '': the user's joining
local moderates    = ARGV[6]           -- '1', 'staff' or ''
local ttl_ms       = tonumber(ARGV[7])
local grace_ms     = tonumber(ARGV[8])

local key = prefix .. 'room:' .. room_id
local message_key = key .. ':msg:' .. seq
local now = now_ms()
local code, message = authorize_change(key, user, epoch, seq, moderates, visible_from, now)
if code then return code end

local expires_ms = math.max(tonumber(message.expires_at), now + ttl_ms)
local expires_at = string.format('%d', expires_ms)
redis.call('HSET', message_key, 'expires_at', expires_at)
redis.call('PEXPIREAT', message_key, string.format('%d', expires_ms + grace_ms))
redis.call('ZADD', prefix .. 'expiring', 'XX', expires_at, index_entry(room_id, seq))
publish_change(key, room_id, seq, message, 'edited', ',"expires_at":' .. expires_at)
return {message.epoch, message.rev, message.id, expires_at, ''}
