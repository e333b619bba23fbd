#!lua flags=allow-oom
-- Read what members may see of a room's log after `since`, and what changed before it: for the first member among the users, and
-- for all others who see the same. A live message that has expired unheld is passed over and remembered in `outcome`, for the
-- cursor will rise above it.
-- KEYS[1] partition prefix
-- ARGV: room, epoch, since, rev ('' none), limit (messages), most (bytes of bodies), visible from (seq: all after it,
--   '' joining), sweep interval (ms), most attempts where what the user rejected is left out, as in a retry, else '', users ...
-- Returns {codes, epoch, top, rev, upto, more (0|1), messages, gone, changed} where a message is
--   {seq, {id, sender, name, body, sent_at, expires_at, reply_to, edited_at, resends}}, one in `changed` has its rev as third,
--   and gone is {seq, reason, ...}; codes, one for each user: 0 sees this, -2 not a member, -3 sees something else: ask for him alone
--   or {codes, epoch}: another epoch, `since` above top, or nobody is a member
--   or -1: the room has no log
local FIELDS = {'id', 'sender', 'name', 'body', 'sent_at', 'expires_at', 'reply_to', 'edited_at', 'resends'}
local FIRST_USER = 10
local prefix, name = KEYS[1], ARGV[1]
local key = prefix .. 'room:' .. name
local room = redis.call('HMGET', key, 'epoch', 'top', 'rev')
if not room[1] then return -1 end
local codes, joinings, user, joined = {}, {}, nil, nil
for i = FIRST_USER, #ARGV do
  local at = tonumber(redis.call('ZSCORE', key .. ':joined', ARGV[i]) or nil)
  if at and not user then user, joined = ARGV[i], at end
  codes[#codes + 1] = at and 0 or -2
  joinings[#joinings + 1] = at or 0
end
local top, since = tonumber(room[2]), tonumber(ARGV[3])
if not user or ARGV[2] ~= room[1] or since > top then return {codes, room[1]} end

local limit, most = tonumber(ARGV[5]), tonumber(ARGV[6])
local from = tonumber(ARGV[7]) or joined
local own = false -- turns true where what is read is this user's own: some of it is for some only, or is to be remembered as unheld
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local cursor = tonumber(redis.call('ZSCORE', key .. ':delivered', user) or joined)
local only_some = redis.call('EXISTS', key .. ':only') == 1
local leave_out = ARGV[9] ~= '' and redis.call('EXISTS', key .. ':outcome') == 1
local messages, gone, changed, bytes, owed = {}, {}, {}, 0, false
local attempts = string.match(redis.call('HGET', key .. ':attempts', user) or '', '^%d+') or '0'
local unheld = '|' .. user .. '|' .. (attempts == '0' and 'offline' or 'no_ack') .. '|' .. attempts

local function addressed(seq, sender)
  if not only_some then return true end
  if sender == user then
    own = own or redis.call('HEXISTS', key .. ':only', seq) == 1
    return true
  end
  local only = redis.call('HGET', key .. ':only', seq)
  if not only then return true end
  own = true
  bytes = bytes + #only / 8 -- a resend to thousands: looking through its names takes time too
  return string.find(',' .. only .. ',', ',' .. user .. ',', 1, true) ~= nil
end

local function visible(seq)
  local fields = redis.call('HMGET', key .. ':msg:' .. seq, unpack(FIELDS))
  if not fields[1] or tonumber(fields[6]) <= now then return nil end
  return fields
end

-- What changed at or below `since`, in the order of change.
local rev, upto, more = tonumber(room[3]), since, 0
local changes = ARGV[4] ~= '' and tonumber(ARGV[4]) < rev
if changes then
  local rows = redis.call('ZRANGEBYSCORE', key .. ':changed', '(' .. ARGV[4], '+inf', 'WITHSCORES', 'LIMIT', 0, limit + 1)
  for i = 1, #rows, 2 do
    local seq = rows[i]
    if (i + 1) / 2 > limit or bytes > most then
      rev, more = tonumber(rows[i - 1]), 1
      break
    end
    if tonumber(seq) <= since and tonumber(seq) > from then
      local fields = visible(seq)
      local entry = not fields and redis.call('ZRANGEBYSCORE', key .. ':live', seq, seq)[1]
      local sender = fields and fields[2] or entry and string.match(entry, '^%d+|(%d+)|')
      local mine = not sender or addressed(seq, sender)
      if mine and fields then
        changed[#changed + 1] = {tonumber(seq), fields, tonumber(rows[i + 1])}
        bytes = bytes + #fields[4] + 200
      elseif mine then
        gone[#gone + 1] = tonumber(seq)
        gone[#gone + 1] = (entry or redis.call('EXISTS', key .. ':msg:' .. seq) == 1) and 'expired' or 'deleted'
      end
    end
  end
end

-- What came after it.
local start = math.max(since, from)
local entries = redis.call('ZRANGEBYSCORE', key .. ':live', string.format('(%.0f', start), '+inf', 'LIMIT', 0, limit + 1)
local cut = #entries > limit
if cut then entries[#entries] = nil end
for i, entry in ipairs(entries) do
  local seq, sender = string.match(entry, '^(%d+)|(%d+)|')
  local tracked = string.sub(entry, -2) ~= '|u'
  if bytes > most then
    cut = true
    break
  end
  if not addressed(seq, sender) then
    gone[#gone + 1] = tonumber(seq)
    gone[#gone + 1] = 'not_for_you'
  else
    local fields = visible(seq)
    if fields then
      if not leave_out or not rejecters(key, seq, {user}, tonumber(ARGV[9]))[user] then
        messages[#messages + 1] = {tonumber(seq), fields}
        bytes = bytes + #fields[4] + 200
        owed = owed or tracked
      end
    else
      gone[#gone + 1] = tonumber(seq)
      gone[#gone + 1] = 'expired'
      own = own or tracked
      if tracked and sender ~= user and cursor < tonumber(seq) and joined < tonumber(seq) then
        redis.call('ZADD', key .. ':outcome', seq, seq .. unheld)
      end
    end
  end
  upto = tonumber(seq)
end
if cut then more = 1 else upto = top end
if owed then redis.call('ZADD', prefix .. 'unacked', 'NX', now + tonumber(ARGV[8]), name) end

-- Who sees the same: who may look as far back, where that decides.
for i, code in ipairs(codes) do
  local his = tonumber(ARGV[7]) or joinings[i]
  local same = his == from or not changes and math.max(since, his) == start
  if code == 0 and ARGV[FIRST_USER + i - 1] ~= user and (own or leave_out or not same) then codes[i] = -3 end
end
return {codes, room[1], top, rev, upto, more, messages, gone, changed}
