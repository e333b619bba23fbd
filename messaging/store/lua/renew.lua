#!lua flags=allow-oom
-- Give a room's log a new epoch, because it may have lost messages: its clients drop their copies and read it again. Once for each
-- incident. `doubt` is the period in which messages may be missing, as 'from|to' (epoch ms). It begins at the newest live message that
-- survived, or at `safe_ms` if that is later, and ends now. It includes an earlier period of the last day.
-- Publishes 'E'.
-- Returns 1 renewed, 0 renewed before for this incident, -1 the room has no log
-- Uses clock, doubt
-- Uses entries: seq_of
local prefix    = KEYS[1]           -- of the partition's keys
local room_id   = ARGV[1]
local incident  = ARGV[2]
local new_epoch = ARGV[3]
local safe_ms   = tonumber(ARGV[4]) -- messages accepted before are not lost; 0: unknown

local key, now = prefix .. 'room:' .. room_id, now_ms()
local epoch, last_incident, top, top_life, life_top, doubt = unpack(redis.call('HMGET', key, 'epoch', 'incident', 'top', 'top_life', 'life_top', 'doubt'))
if not epoch then return -1 end
if last_incident == incident then return 0 end

-- The top that survived the loss: `life_top` if the store has accepted messages in its present life, else `top`.
local survived = top_life == LIFE and life_top or top
local newest = redis.call('ZREVRANGEBYSCORE', key .. ':live', survived, '-inf', 'LIMIT', 0, 1)[1]
local from = math.max(safe_ms, newest and tonumber(redis.call('HGET', key .. ':msg:' .. seq_of(newest), 'sent_at') or nil) or 0)
from = math.min(from, tonumber(string.match(recent_doubt(doubt, now), '^%d+')) or from)
redis.call('HSET', key, 'epoch', new_epoch, 'incident', incident, 'doubt', string.format('%.0f|%.0f', from, now))
redis.call('PUBLISH', key, 'E')
return 1
