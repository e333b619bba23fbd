#!lua
-- Make a room's log when it has none: a fresh epoch, everybody given owes from here on. Idempotent.
-- KEYS[1] partition prefix; ARGV: room, epoch to take, then user ids
-- Returns the epoch that holds now.
local prefix, room = KEYS[1], ARGV[1]
local key = prefix .. 'room:' .. room
local epoch = redis.call('HGET', key, 'epoch')
if epoch then return epoch end

for _, entry in ipairs(redis.call('ZRANGE', key .. ':live', 0, -1)) do
  local seq = string.match(entry, '^%d+')
  redis.call('DEL', key .. ':msg:' .. seq)
  redis.call('ZREM', prefix .. 'expiring', room .. '|' .. seq)
end
for _, part in ipairs({'live', 'only', 'delivered', 'read', 'joined', 'outcome', 'left', 'changed', 'attempts'}) do
  redis.call('DEL', key .. ':' .. part)
end
redis.call('HSET', key, 'epoch', ARGV[2], 'top', 0, 'rev', 0, 'members', 0, 'top_life', LIFE, 'rev_life', LIFE)
for i = 3, #ARGV do
  redis.call('ZADD', key .. ':joined', 0, ARGV[i])
  redis.call('ZADD', key .. ':delivered', 0, ARGV[i])
  redis.call('ZADD', key .. ':read', 0, ARGV[i])
end
return ARGV[2]
