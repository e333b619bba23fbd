#!lua flags=allow-oom
-- Take a live message away: settled, never a miss. Its row in `expiring` stays, so that finalize clears `changed` at the time at
-- which no screen can show the message any more.
-- KEYS[1] partition prefix; ARGV: room, user, epoch ('' the present one), seq, visible from (seq, '' joining), moderates ('1', 'staff' or '')
-- Returns {epoch, rev, id, expires_at, ''}, the same again for one that was deleted before, or a code as in `authorize_change`
local room, user, seq = ARGV[1], ARGV[2], ARGV[4]
local key = KEYS[1] .. 'room:' .. room
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local refused, message = authorize_change(key, user, ARGV[3], seq, ARGV[6], ARGV[5], now)
if refused == -4 then
  local epoch, rev = redis.call('HGET', key, 'epoch'), redis.call('ZSCORE', key .. ':changed', seq)
  local gone = #redis.call('ZRANGEBYSCORE', key .. ':live', seq, seq) == 0
  if rev and gone and (ARGV[3] == '' or ARGV[3] == epoch) then return {epoch, rev, '', '0', ''} end
end
if refused then return refused end

local shown_until, sent_at = unpack(redis.call('HMGET', key .. ':msg:' .. seq, 'shown_until', 'sent_at'))
if shown_until and tonumber(shown_until) > tonumber(message.expires_at) then
  redis.call('ZADD', KEYS[1] .. 'expiring', 'XX', shown_until, room .. '|' .. seq)
end
redis.call('DEL', key .. ':msg:' .. seq)
redis.call('ZREMRANGEBYSCORE', key .. ':live', seq, seq)
redis.call('HDEL', key .. ':only', seq)
redis.call('ZADD', KEYS[1] .. 'over', seq, room .. '|' .. seq)
count_day(KEYS[1], tonumber(sent_at) or now, 'deleted', 1)
publish_change(key, room, seq, message, 'deleted', '')
return {message.epoch, message.rev, message.id, message.expires_at, ''}
