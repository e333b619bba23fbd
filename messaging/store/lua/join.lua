#!lua
-- Make users members: each owes what is accepted from now on. Idempotent; hides nothing from one who left and returns.
-- KEYS[1] partition prefix; ARGV: room, then user ids
-- Returns how many are new, or -1: the room has no log.
local key = KEYS[1] .. 'room:' .. ARGV[1]
local top = redis.call('HGET', key, 'top')
if not top then return -1 end

local joined = 0
for i = 2, #ARGV do
  if redis.call('ZADD', key .. ':joined', 'NX', top, ARGV[i]) == 1 then
    redis.call('ZADD', key .. ':delivered', 'GT', top, ARGV[i])
    redis.call('ZADD', key .. ':read', 'GT', top, ARGV[i])
    joined = joined + 1
  end
end
if joined > 0 then redis.call('HINCRBY', key, 'members', 1) end
return joined
