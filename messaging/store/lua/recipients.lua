#!lua flags=no-writes
-- Say who holds one live message, those who lack it first, at most 100 in all.
-- KEYS[1] partition prefix; ARGV: room, seq, most attempts
-- Returns {{id, sender, sent_at, expires_at, now, only ('' everybody)}, waiting, holding} where waiting is {user, attempts,
--   rejected, ...} with the value of `attempts` or '' and how many there were when he rejected it or '', and holding is {user,
--   read cursor, ...}; or a code: -1 no log, -2 no such live message
local MOST = 100
local key, seq = KEYS[1] .. 'room:' .. ARGV[1], ARGV[2]
if redis.call('EXISTS', key) == 0 then return -1 end
local fields = redis.call('HMGET', key .. ':msg:' .. seq, 'id', 'sender', 'sent_at', 'expires_at')
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if not fields[1] or tonumber(fields[4]) <= now then return -2 end

local only = redis.call('HGET', key .. ':only', seq) or ''
local waiting, holding = {}, {}
local entry = redis.call('ZRANGEBYSCORE', key .. ':live', seq, seq)[1] or ''
local tracked = string.sub(entry, -2) ~= '|u'

local function owes(user)
  if user == fields[2] or not tracked then return false end
  if only ~= '' and not string.find(',' .. only .. ',', ',' .. user .. ',', 1, true) then return false end
  local joined = redis.call('ZSCORE', key .. ':joined', user)
  return joined and tonumber(joined) < tonumber(seq)
end

local function wait(user, rejected)
  if #waiting == 3 * MOST or not owes(user) then return end
  waiting[#waiting + 1] = user
  waiting[#waiting + 1] = redis.call('HGET', key .. ':attempts', user) or ''
  waiting[#waiting + 1] = rejected or ''
end

local function some(from, upto)
  local users = redis.call('ZRANGEBYSCORE', key .. ':delivered', from, upto, 'LIMIT', 0, MOST)
  return users, #users > 0 and rejecters(key, seq, users, tonumber(ARGV[3])) or {}
end

-- Nothing else than a rejection stands in `outcome` of what has not expired.
local behind, unshown = some('-inf', '(' .. seq)
for _, user in ipairs(behind) do wait(user, unshown[user]) end
for _, row in ipairs(redis.call('ZRANGEBYSCORE', key .. ':outcome', seq, seq, 'LIMIT', 0, MOST)) do
  local user, rejected = string.match(row, '^%d+|(%d+)|[^|]*|(%d+)$')
  local cursor = redis.call('ZSCORE', key .. ':delivered', user)
  if cursor and tonumber(cursor) >= tonumber(seq) then wait(user, rejected) end
end
local left = MOST - #waiting / 3
if left > 0 then
  local ahead
  ahead, unshown = some(seq, '+inf')
  for _, user in ipairs(ahead) do
    if left > 0 and not unshown[user] and owes(user) then
      holding[#holding + 1] = user
      holding[#holding + 1] = redis.call('ZSCORE', key .. ':read', user) or '0'
      left = left - 1
    end
  end
end
return {{fields[1], fields[2], fields[3], fields[4], string.format('%.0f', now), only}, waiting, holding}
