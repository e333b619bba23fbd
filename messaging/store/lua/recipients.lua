#!lua flags=no-writes
-- Read at most 100 recipients of one live message, first those who owe it.
-- Returns {{id, sender, sent_at, expires_at}, owing, holding} or a code: -1 no log, -2 no live message that the reader sees. owing is {user, attempts
--   value or '', attempts before the user rejected it or '', ...}; holding is {user, read cursor, ...}
-- Uses clock, rejecters
-- Uses entries: is_among, is_tracked, live_entry_at, parse_outcome
local prefix       = KEYS[1]           -- of the partition's keys
local room_id      = ARGV[1]
local seq          = ARGV[2]
local max_attempts = tonumber(ARGV[3])
local reader       = ARGV[4]           -- user id, '' for the staff
local visible_from = ARGV[5]           -- seq; '': the reader's joining

local MAX_RECIPIENTS = 100
local key = prefix .. 'room:' .. room_id
if redis.call('EXISTS', key) == 0 then return -1 end
local id, sender, sent_at, expires_at = unpack(redis.call('HMGET', key .. ':msg:' .. seq, 'id', 'sender', 'sent_at', 'expires_at'))
if not id or tonumber(expires_at) <= now_ms() then return -2 end

local only = redis.call('HGET', key .. ':only', seq)
if reader ~= '' and reader ~= sender then
  local joined = redis.call('ZSCORE', key .. ':joined', reader)
  local from = joined and (tonumber(visible_from) or tonumber(joined))
  if not from or tonumber(seq) <= from or only and not is_among(only, reader) then return -2 end
end
local entry = live_entry_at(key, seq)
local tracked = not entry or is_tracked(entry)
local owing, holding = {}, {}

local function is_recipient(user)
  if user == sender or not tracked then return false end
  if only and not is_among(only, user) then return false end
  local joined = redis.call('ZSCORE', key .. ':joined', user)
  return joined and tonumber(joined) < tonumber(seq)
end

local function add_owing(user, rejected_after)
  if #owing == 3 * MAX_RECIPIENTS or not is_recipient(user) then return end
  owing[#owing + 1] = user
  owing[#owing + 1] = redis.call('HGET', key .. ':attempts', user) or ''
  owing[#owing + 1] = rejected_after or ''
end

local function members_between(low, high)
  local users = redis.call('ZRANGEBYSCORE', key .. ':delivered', low, high, 'LIMIT', 0, MAX_RECIPIENTS)
  return users, #users > 0 and rejecters(key, seq, users, max_attempts) or {}
end

-- Before a message expires, `outcome` has rejections of it, and members whose clock was ahead when they got it.
local users_below, rejections = members_between('-inf', '(' .. seq)
for _, user in ipairs(users_below) do add_owing(user, rejections[user]) end
for _, row in ipairs(redis.call('ZRANGEBYSCORE', key .. ':outcome', seq, seq, 'LIMIT', 0, MAX_RECIPIENTS)) do
  local user, reason, attempts = parse_outcome(row)
  local cursor = reason == 'client_rejected' and redis.call('ZSCORE', key .. ':delivered', user)
  if cursor and tonumber(cursor) >= tonumber(seq) then add_owing(user, attempts) end
end
local free = MAX_RECIPIENTS - #owing / 3
if free > 0 then
  local users_above
  users_above, rejections = members_between(seq, '+inf')
  for _, user in ipairs(users_above) do
    if free > 0 and not rejections[user] and is_recipient(user) then
      holding[#holding + 1] = user
      holding[#holding + 1] = redis.call('ZSCORE', key .. ':read', user) or '0'
      free = free - 1
    end
  end
end
return {{id, sender, sent_at, expires_at}, owing, holding}
