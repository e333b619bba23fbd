#!lua flags=allow-oom
-- End a membership. If the user owes messages, their position is kept for the reports (reason left_room). Idempotent.
-- Returns 1 if there was a membership, otherwise 0
local prefix  = KEYS[1] -- of the partition's keys
local room_id = ARGV[1]
local user    = ARGV[2] -- user id

local key = prefix .. 'room:' .. room_id
local joined = redis.call('ZSCORE', key .. ':joined', user)
if not joined then return 0 end

local top = redis.call('HGET', key, 'top')
local cursor = redis.call('ZSCORE', key .. ':delivered', user) or joined
redis.call('ZREM', key .. ':joined', user)
redis.call('ZREM', key .. ':delivered', user)
redis.call('ZREM', key .. ':read', user)
redis.call('HDEL', key .. ':attempts', user)
redis.call('HINCRBY', key, 'members', 1)
if redis.call('ZCOUNT', key .. ':live', '(' .. cursor, top) > 0 then
  redis.call('ZADD', key .. ':left', top, string.format('%s|%.0f|%.0f', user, joined, cursor))
  redis.call('PUBLISH', key, 'A') -- the counts of all live messages may change
end
return 1
