#!lua flags=allow-oom
-- Claim rooms of a partition that are due for the sweep. A claim is a lease: after it the room is due again. Rooms in which nobody
-- can lag are removed from the index.
-- Returns {rooms read, room, epoch, mark, time of the oldest message (epoch ms), score claimed, ...}. The same token gets the same rows.
-- Uses clock
-- Uses entries: seq_of
local prefix         = KEYS[1]           -- of the partition's keys
local token          = ARGV[1]           -- of the claim
local limit          = tonumber(ARGV[2]) -- rooms
local lease_ms       = tonumber(ARGV[3])
local ack_timeout_ms = tonumber(ARGV[4]) -- minimum age of the mark
local only_room      = ARGV[5]           -- id of one room, '' all that are due

local unacked, claim_key = prefix .. 'unacked', prefix .. 'claim:' .. token
local answered = redis.call('GET', claim_key)
if answered then return cjson.decode(answered) end
local now = now_ms()

-- Return the seq of the newest message that is old enough to be acknowledged, or '0'. A binary search: sent_at rises with seq.
local function mark_of(key)
  local low, high = 0, redis.call('ZCARD', key .. ':live')
  local mark = '0'
  while low < high do
    local middle = math.floor((low + high) / 2)
    local seq = seq_of(redis.call('ZRANGE', key .. ':live', middle, middle)[1])
    local sent_at = redis.call('HGET', key .. ':msg:' .. seq, 'sent_at')
    if not sent_at or tonumber(sent_at) <= now - ack_timeout_ms then
      low, mark = middle + 1, seq
    else
      high = middle
    end
  end
  return mark
end

local function look(room_id)
  local key = prefix .. 'room:' .. room_id
  local epoch = redis.call('HGET', key, 'epoch')
  local newest = redis.call('ZREVRANGE', key .. ':live', 0, 0, 'WITHSCORES')[2]
  local lowest = redis.call('ZRANGE', key .. ':delivered', 0, 0, 'WITHSCORES')[2]
  if not epoch or not newest or not lowest or tonumber(lowest) >= tonumber(newest) then
    redis.call('ZREM', unacked, room_id)
    return nil
  end
  local oldest = redis.call('ZRANGEBYSCORE', key .. ':live', '(' .. lowest, '+inf', 'LIMIT', 0, 1)[1]
  local sent_at = redis.call('HGET', key .. ':msg:' .. seq_of(oldest), 'sent_at')
  return epoch, mark_of(key), sent_at or '0'
end

local room_ids
if only_room ~= '' then room_ids = {only_room}
else room_ids = redis.call('ZRANGEBYSCORE', unacked, '-inf', now, 'LIMIT', 0, limit) end
local answer = {#room_ids}
local claimed_until = string.format('%.0f', now + lease_ms)
for _, room_id in ipairs(room_ids) do
  local epoch, mark, oldest = look(room_id)
  if epoch then
    redis.call('ZADD', unacked, claimed_until, room_id)
    for _, value in ipairs({room_id, epoch, mark, oldest, claimed_until}) do answer[#answer + 1] = value end
  end
end
if #answer > 1 then redis.call('SET', claim_key, cjson.encode(answer), 'PX', lease_ms) end
return answer
