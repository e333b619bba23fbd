#!lua flags=no-writes
-- Count the members who hold the messages of some senders: among a room's newest LOOK_ROWS live messages, at most MAX_ROWS of each sender.
-- Returns {epoch, then for each sender {seq, delivered, read, total, ...} descending}, without messages that nobody owes. Or {}: the room
--   has no log. Or -1: the counts for these senders would be incomplete: ask for each alone, so that they do not affect one another
-- Uses entries: is_tracked, parse_live_entry, parse_outcome
local prefix        = KEYS[1] -- of the partition's keys
local room_id       = ARGV[1]
local FIRST, STRIDE = 2, 2    -- ARGV: then 2 values for each sender: user id, above (seq: messages at or below it are not counted)

local LOOK_ROWS, STEP, MAX_ROWS = 1000, 250, 200
local SMALL_ROOM, MAX_CHECKS, MAX_NAME_BYTES, COUNTED_ROWS, FIELDS = 1000, 300, 16384, 4, 4
local key = prefix .. 'room:' .. room_id
local epoch = redis.call('HGET', key, 'epoch')
if not epoch then return {} end

local only_some = redis.call('EXISTS', key .. ':only') == 1
local has_exceptions = redis.call('EXISTS', key .. ':outcome') == 1

local senders, lowest, asking, cut_short = {}, math.huge, 0, false
for offset = FIRST, #ARGV, STRIDE do
  local user, above = ARGV[offset], tonumber(ARGV[offset + 1])
  lowest, asking = math.min(lowest, above), asking + 1
  senders[user] = {
    user = user, above = above, rows = {},
    joined = tonumber(redis.call('ZSCORE', key .. ':joined', user) or 'inf'),
    delivered = tonumber(redis.call('ZSCORE', key .. ':delivered', user) or -1),
    read = tonumber(redis.call('ZSCORE', key .. ':read', user) or -1),
  }
end

local members = redis.call('ZCARD', key .. ':joined')

-- Return a function that counts the members of a sorted set at or above a seq. It must be called with falling seqs. The first rows are
-- counted by ZCOUNT. For more rows in a small room the set is read once: 200 rows in a room of two members then take 0.2 ms, not 2.
local function counter(name)
  local calls, scores, last, n = 0, nil, 0, 0
  return function(seq)
    calls = calls + 1
    if calls <= COUNTED_ROWS or members > SMALL_ROOM then return redis.call('ZCOUNT', key .. ':' .. name, seq, '+inf') end
    if not scores then
      scores = redis.call('ZRANGE', key .. ':' .. name, 0, -1, 'WITHSCORES')
      last = #scores
    end
    while last > 0 and tonumber(scores[last]) >= seq do n, last = n + 1, last - 2 end
    return n
  end
end

local joined_later, delivered_by, read_by = counter('joined'), counter('delivered'), counter('read')

-- Return delivered, read and total of the members who joined before a seq. The cursors of members who joined later are above it too, and
-- are subtracted: these members owe nothing.
local function count_all(seq, sender)
  local after = joined_later(seq)
  local own = sender.joined < seq and 1 or 0
  local delivered = delivered_by(seq) - after - (sender.delivered >= seq and own or 0)
  local read = read_by(seq) - after - (sender.read >= seq and own or 0)
  return delivered, read, members - after - own
end

local function at_or_above(cursors, seq, member)
  return tonumber(redis.call('ZSCORE', key .. ':' .. cursors, member) or -1) >= tonumber(seq) and 1 or 0
end

local name_bytes = 0
local function count_addressed(seq, sender, only)
  local delivered, read, total = 0, 0, 0
  name_bytes = name_bytes + #only
  if name_bytes > MAX_NAME_BYTES then -- a resend to thousands has no receipt
    cut_short = true
    return 0, 0, 0
  end
  for member in string.gmatch(only, '%d+') do
    local joined = redis.call('ZSCORE', key .. ':joined', member)
    if joined and member ~= sender.user and tonumber(joined) < tonumber(seq) then
      total = total + 1
      delivered = delivered + at_or_above('delivered', seq, member)
      read = read + at_or_above('read', seq, member)
    end
  end
  return delivered, read, total
end

-- Return the members above a seq who do not hold the message, to subtract them: delivered, read. A member may have several rows, one from
-- before and one from after an attempt. A member who left and joined again owes nothing. After MAX_CHECKS rows every row counts as a
-- member above the seq: then the counts may be too low, but never too high.
local checks = 0
local function count_unheld(seq)
  local delivered, read, known = 0, 0, {}
  local rows = redis.call('ZCOUNT', key .. ':outcome', seq, seq)
  checks = checks + rows
  if checks > MAX_CHECKS then
    cut_short = true
    return rows, rows
  end
  for _, row in ipairs(redis.call('ZRANGEBYSCORE', key .. ':outcome', seq, seq)) do
    local member = parse_outcome(row)
    local joined = redis.call('ZSCORE', key .. ':joined', member)
    if not known[member] and joined and tonumber(joined) < tonumber(seq) then
      known[member] = true
      delivered = delivered + at_or_above('delivered', seq, member)
      read = read + at_or_above('read', seq, member)
    end
  end
  return delivered, read
end

local function add(seq, seq_text, sender)
  local only = only_some and redis.call('HGET', key .. ':only', seq_text)
  local delivered, read, total
  if only then delivered, read, total = count_addressed(seq_text, sender, only) else delivered, read, total = count_all(seq, sender) end
  if has_exceptions then
    local undelivered, unread = count_unheld(seq_text)
    delivered, read = math.max(0, delivered - undelivered), math.max(0, read - unread)
  end
  if total > 0 then
    local rows, n = sender.rows, #sender.rows
    rows[n + 1], rows[n + 2], rows[n + 3], rows[n + 4] = seq, delivered, read < delivered and read or delivered, total
    if n + 4 == FIELDS * MAX_ROWS then asking = asking - 1 end
  end
end

for offset = 0, LOOK_ROWS - 1, STEP do
  local entries = redis.call('ZREVRANGEBYSCORE', key .. ':live', '+inf', string.format('(%.0f', lowest), 'LIMIT', offset, STEP)
  for _, entry in ipairs(entries) do
    local seq_text, user = parse_live_entry(entry)
    local sender, seq = senders[user], tonumber(seq_text)
    if sender and seq > sender.above and #sender.rows < FIELDS * MAX_ROWS and is_tracked(entry) then add(seq, seq_text, sender) end
  end
  if #entries < STEP or asking == 0 then break end
end
if cut_short and #ARGV > FIRST + STRIDE - 1 then return -1 end
local answer = {epoch}
for offset = FIRST, #ARGV, STRIDE do answer[#answer + 1] = senders[ARGV[offset]].rows end
return answer
