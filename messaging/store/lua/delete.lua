#!lua flags=allow-oom
-- Delete a live message; nobody is reported to have missed it. Its row in `expiring` stays, so that finalize_expired clears `changed`
-- when no screen can show the message any more.
-- Returns {epoch, rev, id, expires_at, ''}, with id '' and expires_at '0' if it was deleted before, or a code as in `authorize_change`
-- Uses clock, count, publish_change, authorize_change
-- Uses entries: index_entry, live_entry_at
local prefix       = KEYS[1] -- of the partition's keys
local room_id      = ARGV[1]
local user         = ARGV[2] -- user id
local epoch        = ARGV[3] -- '' the present epoch
local seq          = ARGV[4]
local visible_from = ARGV[5] -- seq; '': the user's joining
local moderates    = ARGV[6] -- '1', 'staff' or ''

local key = prefix .. 'room:' .. room_id
local message_key = key .. ':msg:' .. seq
local now = now_ms()
local code, message = authorize_change(key, user, epoch, seq, moderates, visible_from, now)
if code == -4 then
  local present_epoch, rev = redis.call('HGET', key, 'epoch'), redis.call('ZSCORE', key .. ':changed', seq)
  local deleted = rev and not live_entry_at(key, seq)
  if deleted and (epoch == '' or epoch == present_epoch) then return {present_epoch, rev, '', '0', ''} end
end
if code then return code end

local shown_until, sent_at = unpack(redis.call('HMGET', message_key, 'shown_until', 'sent_at'))
if shown_until and tonumber(shown_until) > tonumber(message.expires_at) then
  redis.call('ZADD', prefix .. 'expiring', 'XX', shown_until, index_entry(room_id, seq))
end
redis.call('DEL', message_key)
redis.call('ZREMRANGEBYSCORE', key .. ':live', seq, seq)
redis.call('HDEL', key .. ':only', seq)
redis.call('ZADD', prefix .. 'over', seq, index_entry(room_id, seq))
count_day(prefix, tonumber(sent_at) or now, 'deleted', 1)
publish_change(key, room_id, seq, message, 'deleted', '')
return {message.epoch, message.rev, message.id, message.expires_at, ''}
