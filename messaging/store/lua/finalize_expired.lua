#!lua flags=allow-oom
-- Clear reported messages, if the caller's claim is still valid; count them and publish their end.
-- Returns for each row 1: cleared; 0: claimed by another caller since, or cleared before; 2: cleared in part, call again
-- Uses clock, count
-- Uses entries: index_entry
local prefix = KEYS[1] -- of the partition's keys
local STRIDE = 8       -- ARGV: 8 values for each row: room id, seq, score claimed, then the number of members who missed it for each
                       --   reason: offline, no_ack, late, client_rejected, left_room

local MAX_OUTCOMES, MAX_LEFT = 1000, 500
local REASONS = {'offline', 'no_ack', 'late', 'client_rejected', 'left_room'}
local expiring, over, now = prefix .. 'expiring', prefix .. 'over', now_ms()
local budget, answers, ended, ended_rooms, counts, cleared_rooms, held = MAX_OUTCOMES, {}, {}, {}, {}, {}, {}

local function add(event, n) counts[event] = (counts[event] or 0) + n end

-- Remove the exceptions of a message, as far as the budget allows; return whether all were removed. There may be one for each member.
local function clear_outcome(key, seq)
  local rows = redis.call('ZRANGEBYSCORE', key .. ':outcome', seq, seq, 'LIMIT', 0, budget + 1)
  local is_cut = #rows > budget
  if is_cut then rows[#rows] = nil end
  if #rows > 0 then redis.call('ZREM', key .. ':outcome', unpack(rows)) end
  budget = budget - #rows
  return not is_cut
end

local function add_ended(key, seq, sent_at, missed_by_reason)
  add('expired', 1)
  local missed = 0
  for i, reason in ipairs(REASONS) do
    local n = tonumber(missed_by_reason[i])
    missed = missed + n
    add('missed_' .. reason, n)
  end
  add(missed == 0 and 'expired_to_all' or 'expired_missed', 1)
  local day = sent_at - sent_at % 86400000
  if missed == 0 then held[day] = (held[day] or 0) + 1 end
  if not ended[key] then ended[key] = {}; ended_rooms[#ended_rooms + 1] = key end
  table.insert(ended[key], seq)
end

local function clear(room_id, seq, claimed_score, ...)
  local key, entry = prefix .. 'room:' .. room_id, index_entry(room_id, seq)
  local message_key = key .. ':msg:' .. seq
  local score = redis.call('ZSCORE', expiring, entry)
  if not score or tonumber(score) ~= tonumber(claimed_score) then return 0 end
  if not clear_outcome(key, seq) then return 2 end
  local shown_until, sent_at = unpack(redis.call('HMGET', message_key, 'shown_until', 'sent_at'))
  cleared_rooms[key] = true
  redis.call('DEL', message_key)
  redis.call('HDEL', key .. ':only', seq)
  if redis.call('ZREMRANGEBYSCORE', key .. ':live', seq, seq) > 0 then add_ended(key, seq, tonumber(sent_at) or now, {...}) end
  if shown_until and tonumber(shown_until) > now then
    -- Until `shown_until` a screen may show the message. Until then `changed` is kept, and the rest of the Hash shows that the message
    -- has expired and was not deleted.
    redis.call('ZADD', expiring, shown_until, entry)
    redis.call('ZADD', over, seq, entry)
    redis.call('HSET', message_key, 'ended', '1')
    redis.call('PEXPIREAT', message_key, shown_until)
  else
    redis.call('ZREM', key .. ':changed', seq)
    redis.call('ZREM', expiring, entry)
    redis.call('ZREM', over, entry)
  end
  return 1
end

for offset = 1, #ARGV, STRIDE do answers[#answers + 1] = clear(unpack(ARGV, offset, offset + STRIDE - 1)) end

for _, key in ipairs(ended_rooms) do
  local epoch = redis.call('HGET', key, 'epoch')
  if epoch then redis.call('PUBLISH', key, 'X ' .. epoch .. ' ' .. table.concat(ended[key], ',')) end
end
for key in pairs(cleared_rooms) do
  -- A member who left owes nothing when all live messages were accepted after they left.
  local oldest = redis.call('ZRANGE', key .. ':live', 0, 0, 'WITHSCORES')[2]
  local settled = redis.call('ZRANGEBYSCORE', key .. ':left', '-inf', oldest and '(' .. oldest or '+inf', 'LIMIT', 0, MAX_LEFT)
  if #settled > 0 then redis.call('ZREM', key .. ':left', unpack(settled)) end
end
for event, n in pairs(counts) do count(prefix, now, event, n) end
for day, n in pairs(held) do count_day(prefix, day, 'held', n) end
return answers
