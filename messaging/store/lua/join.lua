#!lua
-- Make users members: each owes the messages that are accepted from now on. Idempotent.
-- Returns the number of new members, or -1: the room has no log
local prefix     = KEYS[1] -- of the partition's keys
local room_id    = ARGV[1]
local FIRST_USER = 2       -- ARGV: then user ids

local key = prefix .. 'room:' .. room_id
local top = redis.call('HGET', key, 'top')
if not top then return -1 end

local joined = 0
for i = FIRST_USER, #ARGV do
  local user = ARGV[i]
  if redis.call('ZADD', key .. ':joined', 'NX', top, user) == 1 then
    redis.call('ZADD', key .. ':delivered', 'GT', top, user)
    redis.call('ZADD', key .. ':read', 'GT', top, user)
    joined = joined + 1
  end
end
if joined > 0 then redis.call('HINCRBY', key, 'members', 1) end
return joined
