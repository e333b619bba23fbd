#!lua
-- Let a live message live until now + ttl, never shorter than before.
-- KEYS[1] partition prefix; ARGV: room, user, epoch ('' the present one), seq, visible from (seq, '' joining), moderates ('1', 'staff' or ''),
--   ttl (ms), grace (ms)
-- Returns {epoch, rev, id, expires_at, ''} or a code as in `authorize_change`
local prefix, room, user, seq = KEYS[1], ARGV[1], ARGV[2], ARGV[4]
local key = prefix .. 'room:' .. room
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local refused, message = authorize_change(key, user, ARGV[3], seq, ARGV[6], ARGV[5], now)
if refused then return refused end

local until_ms = math.max(tonumber(message.expires_at), now + tonumber(ARGV[7]))
local expires_at = string.format('%d', until_ms)
redis.call('HSET', key .. ':msg:' .. seq, 'expires_at', expires_at)
redis.call('PEXPIREAT', key .. ':msg:' .. seq, string.format('%d', until_ms + tonumber(ARGV[8])))
redis.call('ZADD', prefix .. 'expiring', 'XX', expires_at, room .. '|' .. seq)
publish_change(key, room, seq, message, 'edited', ',"expires_at":' .. expires_at)
return {message.epoch, message.rev, message.id, expires_at, ''}
