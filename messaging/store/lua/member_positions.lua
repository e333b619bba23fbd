#!lua flags=allow-oom
-- Read the positions of members in a room; a `since` of the room's epoch above the cursor counts as an acknowledgement, as in
-- `acknowledge`.
-- Publishes 'A <seq>': no cursor that moved was below that seq.
-- Returns {epoch, top, rev, members (counts joins and leaves), users, {row, ...}, in doubt (0|1)} or -1: the room has no log. `users` are the members,
--   {} if there are more than max_listed. The row of a user is {delivered, read, joined, unread (at most 100)} or a code:
--   -2 not a member, -3 not handled: ask for this user alone
-- Uses clock, count, doubt, has_expired
-- Uses entries: is_among, parse_live_entry
-- Uses late: late_recorder, some_may_have_ended
local prefix        = KEYS[1]           -- of the partition's keys
local room_id       = ARGV[1]
local max_listed    = tonumber(ARGV[2]) -- members, for presence
local lease_ms      = tonumber(ARGV[3]) -- of a claim of ended messages
local FIRST, STRIDE = 4, 5              -- ARGV: then 5 values for each user: user id, epoch ('' none), since (seq), late (seq,seq,...),
                                        --   judged ('1': the client has named all late messages, '' some may be missing)

local MAX_UNREAD = 100
local key, call = prefix .. 'room:' .. room_id, redis.call
local present_epoch, top, rev, members, doubt = unpack(call('HMGET', key, 'epoch', 'top', 'rev', 'members', 'doubt'))
if not present_epoch then return -1 end
local now = now_ms()
local only_some = call('EXISTS', key .. ':only') == 1

-- Return the messages above a seq: the number of those for all members, in total and by sender, and the messages for some members only.
local function unread_above(seq)
  local window = {above = seq, total = 0, by_sender = {}, only = {}}
  for _, entry in ipairs(call('ZRANGEBYSCORE', key .. ':live', string.format('(%.0f', seq), '+inf', 'LIMIT', 0, MAX_UNREAD)) do
    local seq_text, sender = parse_live_entry(entry)
    if not has_expired(key, seq_text, now) then
      local only = only_some and call('HGET', key .. ':only', seq_text)
      if only then window.only[#window.only + 1] = {sender = sender, users = only}
      else
        window.total = window.total + 1
        window.by_sender[sender] = (window.by_sender[sender] or 0) + 1
      end
    end
  end
  return window
end

local function count_unread(window, user)
  local n = window.total - (window.by_sender[user] or 0)
  for _, message in ipairs(window.only) do
    if message.sender ~= user and is_among(message.users, user) then n = n + 1 end
  end
  return n
end

local rows, window, passed, lowest = {}, nil, 0, math.huge

local function row_of(user, epoch, since, late, judged)
  local joined = call('ZSCORE', key .. ':joined', user)
  if not joined then return -2 end
  local read = call('ZSCORE', key .. ':read', user) or joined
  local above = math.max(tonumber(read), tonumber(joined))
  if window and (window.above ~= above or #window.only > 0) then return -3 end -- one call reads the messages once
  window = window or unread_above(above)
  local cursor = tonumber(call('ZSCORE', key .. ':delivered', user) or joined)
  if epoch == present_epoch and tonumber(since) <= tonumber(top) and tonumber(since) > cursor then
    local check = judged == '' and some_may_have_ended(prefix, now, lease_ms)
    local upto = late_recorder(key, tonumber(since), late, check and now)(user, joined, cursor)
    call('ZADD', key .. ':delivered', upto, user)
    call('HDEL', key .. ':attempts', user)
    passed = passed + call('ZCOUNT', key .. ':live', string.format('(%.0f', cursor), upto)
    lowest = math.min(lowest, cursor)
  end
  return {call('ZSCORE', key .. ':delivered', user), read, joined, count_unread(window, user)}
end

for offset = FIRST, #ARGV, STRIDE do rows[#rows + 1] = row_of(unpack(ARGV, offset, offset + STRIDE - 1)) end
count(prefix, now, 'delivered', passed)
if lowest < math.huge then call('PUBLISH', key, string.format('A %.0f', lowest)) end
local listed = {}
if call('ZCARD', key .. ':joined') <= max_listed then listed = call('ZRANGE', key .. ':joined', 0, -1) end
return {present_epoch, top, rev, members, listed, rows, recent_doubt(doubt, now) ~= '' and 1 or 0}
