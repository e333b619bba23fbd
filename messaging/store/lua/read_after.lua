#!lua flags=allow-oom
-- Read the visible part of a room's log after `since`, and the changes of messages up to `since`: for the first member among the users,
-- and for all other users who see the same. A live message that expired before the member held it is omitted, and recorded in
-- `outcome`, because the cursor will rise above it.
-- Returns {codes, epoch, top, rev, upto, more (0|1), messages, gone, changed, doubt}. A message is {seq, fields}, a changed message is
--   {seq, fields, rev}; gone is {seq, reason, ...}. codes has a code for each user: 0 this answer is theirs, -2 not a member, -3 they
--   see other messages: ask for this user alone. doubt: 'from|to' for a day after the room
--   lost messages, otherwise ''.
--   Or {codes, epoch}: another epoch, `since` above top, or no user is a member. Or -1: the room has no log.
-- Uses clock, doubt, messages, rejecters
-- Uses entries: is_among, is_tracked, live_entry_at, outcome_row, parse_attempts, parse_live_entry, sender_and_id
local prefix            = KEYS[1]           -- of the partition's keys
local room_id           = ARGV[1]
local epoch             = ARGV[2]
local since             = tonumber(ARGV[3]) -- seq
local since_rev         = ARGV[4]           -- rev, '' without changes
local limit             = tonumber(ARGV[5]) -- messages
local max_bytes         = tonumber(ARGV[6]) -- of bodies
local visible_from      = tonumber(ARGV[7]) -- seq; nil: each user's joining
local sweep_interval_ms = tonumber(ARGV[8])
local max_attempts      = tonumber(ARGV[9]) -- for a retry, which omits messages that the user rejected; nil: keep them
local FIRST_USER        = 10                -- ARGV: then user ids

local call, key = redis.call, prefix .. 'room:' .. room_id
local present_epoch, top, rev, doubt = unpack(call('HMGET', key, 'epoch', 'top', 'rev', 'doubt'))
if not present_epoch then return -1 end
top, rev = tonumber(top), tonumber(rev)
local codes, joined_at, user, joined = {}, {}, nil, nil
for i = FIRST_USER, #ARGV do
  local seq = tonumber(call('ZSCORE', key .. ':joined', ARGV[i]) or nil)
  if seq and not user then user, joined = ARGV[i], seq end
  codes[#codes + 1] = seq and 0 or -2
  joined_at[#joined_at + 1] = seq or 0
end
if not user or epoch ~= present_epoch or since > top then return {codes, present_epoch} end

local from = visible_from or joined
local own = false -- whether the answer is only for this user: a message is for some members, or was recorded in `outcome`
local now = now_ms()
local cursor = tonumber(call('ZSCORE', key .. ':delivered', user) or joined)
local only_some = call('EXISTS', key .. ':only') == 1
local leave_out = max_attempts and call('EXISTS', key .. ':outcome') == 1
local messages, gone, changed, bytes, has_tracked = {}, {}, {}, 0, false
local attempts = parse_attempts(call('HGET', key .. ':attempts', user))

local function is_addressed(seq, sender)
  if not only_some then return true end
  if sender == user then
    own = own or call('HEXISTS', key .. ':only', seq) == 1
    return true
  end
  local only = call('HGET', key .. ':only', seq)
  if not only then return true end
  own = true
  bytes = bytes + #only / 8 -- a resend to thousands of users: the search through their ids takes time too
  return is_among(only, user)
end

local function add_gone(seq, reason) gone[#gone + 1], gone[#gone + 2] = tonumber(seq), reason end

local function record_unheld(seq, sender)
  if sender == user or cursor >= tonumber(seq) or joined >= tonumber(seq) then return end
  call('ZADD', key .. ':outcome', seq, outcome_row(seq, user, attempts == 0 and 'offline' or 'no_ack', attempts))
end

local function add_changed(seq, change_rev)
  local fields = visible_fields(key, seq, now)
  local entry = not fields and live_entry_at(key, seq)
  local sender = fields and fields[2] or entry and sender_and_id(entry)
  if sender and not is_addressed(seq, sender) then return end
  if fields then
    changed[#changed + 1] = {tonumber(seq), fields, tonumber(change_rev)}
    bytes = bytes + bytes_of(fields)
  else
    add_gone(seq, (entry or call('EXISTS', key .. ':msg:' .. seq) == 1) and 'expired' or 'deleted')
  end
end

local function add_message(seq, sender, tracked)
  if not is_addressed(seq, sender) then return add_gone(seq, 'not_for_you') end
  local fields = visible_fields(key, seq, now)
  if not fields then
    add_gone(seq, 'expired')
    own = own or tracked
    if tracked then record_unheld(seq, sender) end
  elseif not leave_out or not rejecters(key, seq, {user}, max_attempts)[user] then
    messages[#messages + 1] = {tonumber(seq), fields}
    bytes = bytes + bytes_of(fields)
    has_tracked = has_tracked or tracked
  end
end

-- The changes of messages up to `since`, in the order of the changes.
local upto, more = since, 0
local has_changes = since_rev ~= '' and tonumber(since_rev) < rev
if has_changes then
  local rows = call('ZRANGEBYSCORE', key .. ':changed', '(' .. since_rev, '+inf', 'WITHSCORES', 'LIMIT', 0, limit + 1)
  for i = 1, #rows, 2 do
    local seq = rows[i]
    if (i + 1) / 2 > limit or bytes > max_bytes then
      rev, more = tonumber(rows[i - 1]), 1
      break
    end
    if tonumber(seq) <= since and tonumber(seq) > from then add_changed(seq, rows[i + 1]) end
  end
end

-- The messages after `since`.
local start = math.max(since, from)
local entries = call('ZRANGEBYSCORE', key .. ':live', string.format('(%.0f', start), '+inf', 'LIMIT', 0, limit + 1)
local is_cut = #entries > limit
if is_cut then entries[#entries] = nil end
for _, entry in ipairs(entries) do
  if bytes > max_bytes then
    is_cut = true
    break
  end
  local seq, sender = parse_live_entry(entry)
  add_message(seq, sender, is_tracked(entry))
  upto = tonumber(seq)
end
if is_cut then more = 1 else upto = top end
if has_tracked then call('ZADD', prefix .. 'unacked', 'NX', now + sweep_interval_ms, room_id) end

-- Another user sees the same messages if their history begins at the same seq, or if that makes no difference.
for i, code in ipairs(codes) do
  local other_from = visible_from or joined_at[i]
  local same = other_from == from or not has_changes and math.max(since, other_from) == start
  if code == 0 and ARGV[FIRST_USER + i - 1] ~= user and (own or leave_out or not same) then codes[i] = -3 end
end
return {codes, present_epoch, top, rev, upto, more, messages, gone, changed, recent_doubt(doubt, now)}
