-- The values with several fields in one text. They are parsed here, and in `entries.py`, only:
--   live entry     seq|sender|id, then |u where nobody owes the message
--   attempts value n|first_at|next_at|reason (times in epoch ms)
--   outcome row    seq|user|reason|attempts
--   index entry    room|seq
--   users          user,user,...
local match, sub, find = string.match, string.sub, string.find

local function live_entry(seq, sender, id, tracked) return seq .. '|' .. sender .. '|' .. id .. (tracked and '' or '|u') end

-- Return the entry of a seq, nil where the message is not live.
local function live_entry_at(key, seq) return redis.call('ZRANGEBYSCORE', key .. ':live', seq, seq)[1] end

local function seq_of(entry) return match(entry, '^%d+') end

-- Return seq, sender; without the id, which most scripts do not need.
local function parse_live_entry(entry) return match(entry, '^(%d+)|(%d+)|') end

local function sender_and_id(entry) return match(entry, '^%d+|(%d+)|([^|]*)') end

local function is_tracked(entry) return sub(entry, -2) ~= '|u' end

local function attempts_value(n, first_at, next_at, reason)
  return string.format('%d|%.0f|%.0f|%s', n, first_at, next_at, reason)
end

-- Return n, first_at, next_at, reason; only 0 where no attempt was made.
local function parse_attempts(value)
  if not value then return 0 end
  local n, first_at, next_at, reason = match(value, '^(%d+)|(%d+)|(%d+)|(.*)$')
  return tonumber(n), tonumber(first_at), tonumber(next_at), reason
end

local function outcome_row(seq, user, reason, attempts)
  return seq .. '|' .. user .. '|' .. reason .. '|' .. string.format('%d', attempts)
end

-- Return user, reason, attempts.
local function parse_outcome(row) return match(row, '^%d+|(%d+)|([^|]*)|(%d+)$') end

local function index_entry(room_id, seq) return room_id .. '|' .. seq end

-- Return whether a user is among the users of a message that is for some only.
local function is_among(users, user) return find(',' .. users .. ',', ',' .. user .. ',', 1, true) ~= nil end
