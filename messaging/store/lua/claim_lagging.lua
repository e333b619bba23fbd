#!lua flags=allow-oom
-- Take the rooms of a partition whose look is due: each is a lease, due again by itself. Rooms in which nobody can lag go.
-- KEYS[1] partition prefix; ARGV: token, most rooms, lease (ms), newest age of the mark (ms), one room or '' for the due ones
-- Returns {rooms looked at, room, epoch, mark, oldest accepted (epoch ms), score claimed, ...}; the same token gets the same rows
local prefix, token, lease, settled = KEYS[1], ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local answered = redis.call('GET', prefix .. 'claim:' .. token)
if answered then return cjson.decode(answered) end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- The newest message that has had time to be acknowledged, by halving: sent_at rises with seq. 0 when there is none.
local function mark_of(key)
  local old, young = 0, redis.call('ZCARD', key .. ':live')
  local mark = '0'
  while old < young do
    local middle = math.floor((old + young) / 2)
    local seq = string.match(redis.call('ZRANGE', key .. ':live', middle, middle)[1], '^%d+')
    local sent_at = redis.call('HGET', key .. ':msg:' .. seq, 'sent_at')
    if not sent_at or tonumber(sent_at) <= now - settled then
      old, mark = middle + 1, seq
    else
      young = middle
    end
  end
  return mark
end

local function look(room)
  local key = prefix .. 'room:' .. room
  local epoch = redis.call('HGET', key, 'epoch')
  local newest = redis.call('ZREVRANGE', key .. ':live', 0, 0, 'WITHSCORES')[2]
  local lowest = redis.call('ZRANGE', key .. ':delivered', 0, 0, 'WITHSCORES')[2]
  if not epoch or not newest or not lowest or tonumber(lowest) >= tonumber(newest) then
    redis.call('ZREM', prefix .. 'unacked', room)
    return nil
  end
  local oldest = redis.call('ZRANGEBYSCORE', key .. ':live', '(' .. lowest, '+inf', 'LIMIT', 0, 1)[1]
  local sent_at = redis.call('HGET', key .. ':msg:' .. string.match(oldest, '^%d+'), 'sent_at')
  return epoch, mark_of(key), sent_at or '0'
end

local rooms
if ARGV[5] ~= '' then rooms = {ARGV[5]}
else rooms = redis.call('ZRANGEBYSCORE', prefix .. 'unacked', '-inf', now, 'LIMIT', 0, tonumber(ARGV[2])) end
local answer = {#rooms}
local due = string.format('%.0f', now + lease)
for _, room in ipairs(rooms) do
  local epoch, mark, oldest = look(room)
  if epoch then
    redis.call('ZADD', prefix .. 'unacked', due, room)
    for _, value in ipairs({room, epoch, mark, oldest, due}) do answer[#answer + 1] = value end
  end
end
if #answer > 1 then redis.call('SET', prefix .. 'claim:' .. token, cjson.encode(answer), 'PX', lease) end
return answer
