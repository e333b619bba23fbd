#!lua flags=allow-oom
-- Say where a member stands in a room; a `since` of the room's epoch above the cursor counts as an acknowledgement.
-- KEYS[1] partition prefix; ARGV: room, user, epoch ('' none), since, most members for presence
-- Returns {epoch, top, rev, members, delivered, read, joined, unread (at most 100), {user, ...} or {} where they are more}
--   or a code: -1 the room has no log, -2 not a member
local key, user = KEYS[1] .. 'room:' .. ARGV[1], ARGV[2]
local room = redis.call('HMGET', key, 'epoch', 'top', 'rev', 'members')
if not room[1] then return -1 end
local joined = redis.call('ZSCORE', key .. ':joined', user)
if not joined then return -2 end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if ARGV[3] == room[1] and tonumber(ARGV[4]) <= tonumber(room[2]) then
  local cursor = redis.call('ZSCORE', key .. ':delivered', user)
  if redis.call('ZADD', key .. ':delivered', 'XX', 'GT', 'CH', ARGV[4], user) == 1 then
    redis.call('HDEL', key .. ':attempts', user)
    count(KEYS[1], now, 'delivered', redis.call('ZCOUNT', key .. ':live', '(' .. cursor, ARGV[4]))
    redis.call('PUBLISH', key, string.format('A %.0f', cursor))
  end
end
local read = redis.call('ZSCORE', key .. ':read', user) or joined
local above = math.max(tonumber(read), tonumber(joined))
local unread = 0
local only_some = redis.call('EXISTS', key .. ':only') == 1
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', key .. ':live', string.format('(%.0f', above), '+inf', 'LIMIT', 0, 100)) do
  local seq, sender = string.match(entry, '^(%d+)|(%d+)|')
  local addressed = true
  if only_some then
    local only = redis.call('HGET', key .. ':only', seq)
    addressed = not only or string.find(',' .. only .. ',', ',' .. user .. ',', 1, true)
  end
  if sender ~= user and addressed then
    local expires_at = redis.call('HGET', key .. ':msg:' .. seq, 'expires_at')
    if expires_at and tonumber(expires_at) > now then unread = unread + 1 end
  end
end
local people = {}
if redis.call('ZCARD', key .. ':joined') <= tonumber(ARGV[5]) then people = redis.call('ZRANGE', key .. ':joined', 0, -1) end
return {room[1], room[2], room[3], room[4], redis.call('ZSCORE', key .. ':delivered', user), read, joined, unread, people}
