#!lua flags=no-writes
-- Say how a room stands: how many members are behind, and the first of them, furthest behind first.
-- KEYS[1] partition prefix; ARGV: room, most members
-- Returns {epoch, live messages, members behind, oldest accepted (epoch ms), user, cursor, value of attempts or '', ...}; {} no log
local key = KEYS[1] .. 'room:' .. ARGV[1]
local epoch = redis.call('HGET', key, 'epoch')
if not epoch then return {} end
local answer = {epoch, redis.call('ZCARD', key .. ':live'), 0, '0'}
local newest = redis.call('ZREVRANGE', key .. ':live', 0, 0, 'WITHSCORES')[2]
if not newest then return answer end
local below = '(' .. newest
answer[3] = redis.call('ZCOUNT', key .. ':delivered', '-inf', below)
local rows = redis.call('ZRANGEBYSCORE', key .. ':delivered', '-inf', below, 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[2]))
for i = 1, #rows, 2 do
  answer[#answer + 1] = rows[i]
  answer[#answer + 1] = rows[i + 1]
  answer[#answer + 1] = redis.call('HGET', key .. ':attempts', rows[i]) or ''
end
local lowest = rows[2]
if lowest then
  local oldest = redis.call('ZRANGEBYSCORE', key .. ':live', '(' .. lowest, '+inf', 'LIMIT', 0, 1)[1]
  answer[4] = oldest and redis.call('HGET', key .. ':msg:' .. string.match(oldest, '^%d+'), 'sent_at') or '0'
end
return answer
