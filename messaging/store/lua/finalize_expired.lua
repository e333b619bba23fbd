#!lua flags=allow-oom
-- Clear what was reported, where the claim is still the caller's; count it and tell the screens.
-- KEYS[1] partition prefix; ARGV: for each row, 7 values: room, seq, score claimed, then how many missed it as offline, no_ack,
--   client_rejected, left_room
-- Returns for each 1 cleared, 0 somebody else's by now, 2 partly: call again
local OUTCOMES, LEFT, STRIDE = 1000, 500, 7
local REASONS = {'offline', 'no_ack', 'client_rejected', 'left_room'}
local prefix, budget, answers, ended, order, counts, cleared, held = KEYS[1], OUTCOMES, {}, {}, {}, {}, {}, {}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function add(what, n) counts[what] = (counts[what] or 0) + n end

-- One message may have as many exceptions as the room has members.
local function clear_outcome(key, seq)
  local rows = redis.call('ZRANGEBYSCORE', key .. ':outcome', seq, seq, 'LIMIT', 0, budget + 1)
  local cut = #rows > budget
  if cut then rows[#rows] = nil end
  if #rows > 0 then redis.call('ZREM', key .. ':outcome', unpack(rows)) end
  budget = budget - #rows
  return not cut
end

local function note(key, seq, at, sent_at)
  add('expired', 1)
  local missed = 0
  for i, reason in ipairs(REASONS) do
    local n = tonumber(ARGV[at + 2 + i])
    missed = missed + n
    add('missed_' .. reason, n)
  end
  add(missed == 0 and 'expired_to_all' or 'expired_missed', 1)
  local day = sent_at - sent_at % 86400000
  if missed == 0 then held[day] = (held[day] or 0) + 1 end
  if not ended[key] then ended[key] = {}; order[#order + 1] = key end
  table.insert(ended[key], seq)
end

local function clear(at)
  local room, seq, entry = ARGV[at], ARGV[at + 1], ARGV[at] .. '|' .. ARGV[at + 1]
  local key = prefix .. 'room:' .. room
  local score = redis.call('ZSCORE', prefix .. 'expiring', entry)
  if not score or tonumber(score) ~= tonumber(ARGV[at + 2]) then return 0 end
  if not clear_outcome(key, seq) then return 2 end
  local shown_until, sent_at = unpack(redis.call('HMGET', key .. ':msg:' .. seq, 'shown_until', 'sent_at'))
  cleared[key] = true
  redis.call('DEL', key .. ':msg:' .. seq)
  redis.call('HDEL', key .. ':only', seq)
  if redis.call('ZREMRANGEBYSCORE', key .. ':live', seq, seq) > 0 then note(key, seq, at, tonumber(sent_at) or now) end
  if shown_until and tonumber(shown_until) > now then
    -- That it is over stays known while a screen may show it; what stays of the Hash tells it from a deleted one.
    redis.call('ZADD', prefix .. 'expiring', shown_until, entry)
    redis.call('ZADD', prefix .. 'over', seq, entry)
    redis.call('HSET', key .. ':msg:' .. seq, 'ended', '1')
    redis.call('PEXPIREAT', key .. ':msg:' .. seq, shown_until)
  else
    redis.call('ZREM', key .. ':changed', seq)
    redis.call('ZREM', prefix .. 'expiring', entry)
    redis.call('ZREM', prefix .. 'over', entry)
  end
  return 1
end

for at = 1, #ARGV, STRIDE do answers[#answers + 1] = clear(at) end

for _, key in ipairs(order) do
  local epoch = redis.call('HGET', key, 'epoch')
  if epoch then redis.call('PUBLISH', key, 'X ' .. epoch .. ' ' .. table.concat(ended[key], ',')) end
end
for key in pairs(cleared) do
  -- Who left owes nothing any more once nothing live is as old as his leaving.
  local oldest = redis.call('ZRANGE', key .. ':live', 0, 0, 'WITHSCORES')[2]
  local settled = redis.call('ZRANGEBYSCORE', key .. ':left', '-inf', oldest and '(' .. oldest or '+inf', 'LIMIT', 0, LEFT)
  if #settled > 0 then redis.call('ZREM', key .. ':left', unpack(settled)) end
end
for what, n in pairs(counts) do count(prefix, now, what, n) end
for day, n in pairs(held) do count_day(prefix, day, 'held', n) end
return answers
