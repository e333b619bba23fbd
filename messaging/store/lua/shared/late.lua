-- Messages that a member acknowledges, but did not get before their end. A client that judges this itself names them (`late`). The
-- acknowledgement of any other client counts only for messages that still live when it arrives.

-- Return whether a message of the partition may have ended. A claimed row has the end of its lease as its time, so rows due within one
-- lease count too.
local function some_may_have_ended(prefix, now, lease_ms)
  local first_due = redis.call('ZRANGE', prefix .. 'expiring', 0, 0, 'WITHSCORES')[2]
  return first_due ~= nil and tonumber(first_due) <= now + lease_ms
end

-- Return the live entries that have ended with above < seq <= upto, and the seq up to which they were read: it may be below `upto`, so
-- that no call takes longer than 5 ms.
-- Uses has_expired
-- Uses entries: parse_live_entry
local function ended_entries(key, above, upto, now)
  local MAX_ENTRIES, ended = 100, {}
  local entries = redis.call('ZRANGEBYSCORE', key .. ':live', string.format('(%.0f', above), upto, 'LIMIT', 0, MAX_ENTRIES)
  for _, entry in ipairs(entries) do
    if has_expired(key, parse_live_entry(entry), now) then ended[#ended + 1] = entry end
  end
  if #entries == MAX_ENTRIES then upto = tonumber((parse_live_entry(entries[MAX_ENTRIES]))) end
  return ended, upto
end

-- Record in `outcome` that a member got a live message late, if they owe it. `joined`: nil for a present member.
-- Uses entries: is_among, is_tracked, outcome_row, parse_attempts, parse_live_entry
local function record_late(key, user, joined, entry)
  local seq, sender = parse_live_entry(entry)
  joined = joined or redis.call('ZSCORE', key .. ':joined', user)
  if sender == user or not is_tracked(entry) or not joined or tonumber(joined) >= tonumber(seq) then return end
  local only = redis.call('HGET', key .. ':only', seq)
  if only and not is_among(only, user) then return end
  local n = parse_attempts(redis.call('HGET', key .. ':attempts', user))
  -- A read that omitted the message has recorded it already.
  if redis.call('ZSCORE', key .. ':outcome', outcome_row(seq, user, n == 0 and 'offline' or 'no_ack', n)) then return end
  redis.call('ZADD', key .. ':outcome', seq, outcome_row(seq, user, 'late', n))
end

-- Return a function(user, joined, cursor). It records which messages the member got late, between `cursor` and `delivered`, and returns the
-- seq up to which the cursor may rise in this call. late: the seqs that the client named. checked_at: the present time if there may be other
-- late messages, else nil.
-- Cursors of equal acknowledgements often begin at the same seq: then the messages are read once.
-- Uses entries: live_entry_at, seq_of
-- Uses late: ended_entries, record_late
local function late_recorder(key, delivered, late, checked_at)
  if late == '' and not checked_at then return function() return delivered end end
  local named, ended, above, upto = {}, {}, nil, delivered
  for seq in string.gmatch(late, '%d+') do named[#named + 1] = live_entry_at(key, seq) end
  return function(user, joined, cursor)
    if checked_at and above ~= cursor then ended, upto = ended_entries(key, cursor, delivered, checked_at) end
    above = cursor
    for _, entry in ipairs(ended) do record_late(key, user, joined, entry) end
    for _, entry in ipairs(named) do
      local seq = tonumber(seq_of(entry))
      if seq > cursor and seq <= upto then record_late(key, user, joined, entry) end
    end
    return upto
  end
end
