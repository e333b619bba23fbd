#!lua flags=allow-oom
-- End a membership. What the leaver still owed is kept for the report (reason left_room). Idempotent.
-- KEYS[1] partition prefix; ARGV: room, user
-- Returns 1 when there was one to end, else 0.
local key, user = KEYS[1] .. 'room:' .. ARGV[1], ARGV[2]
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
  redis.call('PUBLISH', key, 'A') -- of what is there, all counts may change
end
return 1
