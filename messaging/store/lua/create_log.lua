#!lua
-- Create a room's log, if it has none, with a new epoch and the given users as members. Idempotent. If other keys of the room are left,
-- the store has lost the log: `doubt` is set as in `renew`.
-- Returns the epoch of the log
-- Uses clock
-- Uses entries: index_entry, seq_of
local prefix     = KEYS[1] -- of the partition's keys
local room_id    = ARGV[1]
local new_epoch  = ARGV[2]
local FIRST_USER = 3       -- ARGV: then user ids

local key = prefix .. 'room:' .. room_id
local epoch = redis.call('HGET', key, 'epoch')
if epoch then return epoch end

local is_lost = redis.call('EXISTS', key .. ':joined') == 1
for _, entry in ipairs(redis.call('ZRANGE', key .. ':live', 0, -1)) do
  local seq = seq_of(entry)
  redis.call('DEL', key .. ':msg:' .. seq)
  redis.call('ZREM', prefix .. 'expiring', index_entry(room_id, seq))
end
for _, part in ipairs({'live', 'only', 'delivered', 'read', 'joined', 'outcome', 'left', 'changed', 'attempts'}) do
  redis.call('DEL', key .. ':' .. part)
end
redis.call('HSET', key, 'epoch', new_epoch, 'top', 0, 'rev', 0, 'members', 0, 'top_life', LIFE, 'rev_life', LIFE)
if is_lost then redis.call('HSET', key, 'doubt', string.format('0|%.0f', now_ms())) end
for i = FIRST_USER, #ARGV do
  local user = ARGV[i]
  redis.call('ZADD', key .. ':joined', 0, user)
  redis.call('ZADD', key .. ':delivered', 0, user)
  redis.call('ZADD', key .. ':read', 0, user)
end
return new_epoch
