-- The values with several fields in one text. They are parsed only here and in `entries.py`:
--   live entry     seq|sender|id, then |u if nobody owes the message
--   attempts value n|first_at|next_at|reason (times in epoch ms)
--   outcome row    seq|user|reason|attempts
--   index entry    room|seq
--   users          user,user,...
-- Scripts include only the functions that they call: with all of them one `append` or `who_owes` took 3 % longer.

local function live_entry(seq, sender, id, tracked) return seq .. '|' .. sender .. '|' .. id .. (tracked and '' or '|u') end

-- Return the live entry of a seq, nil if the message is not live.
local function live_entry_at(key, seq) return redis.call('ZRANGEBYSCORE', key .. ':live', seq, seq)[1] end

local function seq_of(entry) return string.match(entry, '^%d+') end

-- Return seq and sender of a live entry, without the id, which most scripts do not need.
local function parse_live_entry(entry) return string.match(entry, '^(%d+)|(%d+)|') end

local function sender_and_id(entry) return string.match(entry, '^%d+|(%d+)|([^|]*)') end

local function is_tracked(entry) return string.sub(entry, -2) ~= '|u' end

local function attempts_value(n, first_at, next_at, reason)
  return string.format('%d|%.0f|%.0f|%s', n, first_at, next_at, reason)
end

-- Return n, first_at, next_at and reason; only 0 if no attempt was made.
local function parse_attempts(value)
  if not value then return 0 end
  local n, first_at, next_at, reason = string.match(value, '^(%d+)|(%d+)|(%d+)|(.*)$')
  return tonumber(n), tonumber(first_at), tonumber(next_at), reason
end

local function outcome_row(seq, user, reason, attempts)
  return seq .. '|' .. user .. '|' .. reason .. '|' .. string.format('%d', attempts)
end

-- Return user, reason and attempts of an outcome row.
local function parse_outcome(row) return string.match(row, '^%d+|(%d+)|([^|]*)|(%d+)$') end

local function index_entry(room_id, seq) return room_id .. '|' .. seq end

-- Return whether a user is one of the users of a message that is for some members only.
local function is_among(users, user) return string.find(',' .. users .. ',', ',' .. user .. ',', 1, true) ~= nil end
