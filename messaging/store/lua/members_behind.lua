#!lua flags=no-writes
-- Read the members of a room whose cursor is below the newest live message: their number, and the first of them, furthest behind first.
-- Returns {epoch, live messages, members behind, time of the oldest of their messages (epoch ms), user, cursor, attempts value or '',
--   ...}; {}: the room has no log
-- Uses entries: seq_of
local prefix  = KEYS[1]           -- of the partition's keys
local room_id = ARGV[1]
local limit   = tonumber(ARGV[2]) -- members

local key = prefix .. 'room:' .. room_id
local epoch = redis.call('HGET', key, 'epoch')
if not epoch then return {} end
local live = redis.call('ZCARD', key .. ':live')
local newest = redis.call('ZREVRANGE', key .. ':live', 0, 0, 'WITHSCORES')[2]
if not newest then return {epoch, live, 0, '0'} end
local below = '(' .. newest
local answer = {epoch, live, redis.call('ZCOUNT', key .. ':delivered', '-inf', below), '0'}
local cursors = redis.call('ZRANGEBYSCORE', key .. ':delivered', '-inf', below, 'WITHSCORES', 'LIMIT', 0, limit)
for i = 1, #cursors, 2 do
  local user, cursor = cursors[i], cursors[i + 1]
  answer[#answer + 1] = user
  answer[#answer + 1] = cursor
  answer[#answer + 1] = redis.call('HGET', key .. ':attempts', user) or ''
end
local lowest = cursors[2]
if lowest then
  local oldest = redis.call('ZRANGEBYSCORE', key .. ':live', '(' .. lowest, '+inf', 'LIMIT', 0, 1)[1]
  answer[4] = oldest and redis.call('HGET', key .. ':msg:' .. seq_of(oldest), 'sent_at') or '0'
end
return answer
