#!lua flags=no-writes
-- Count who holds some senders' messages among a room's newest 1,000 live ones, for at most 200 of each sender.
-- KEYS[1] partition prefix; ARGV: room, then for each sender user, above (seq: what stands at or below it is not asked)
-- Returns {epoch, then for each sender {seq, delivered, read, total, ...} descending}, rows that nobody owes left out; -1 where counting
--   for several would be cut short: they are to be asked about one by one, so that no count depends on who else is asked about
local LOOK, STEP, MOST, FEW, CHECKS, NAMES, ROWS, FIELDS = 1000, 250, 200, 1000, 300, 16384, 4, 4
local key = KEYS[1] .. 'room:' .. ARGV[1]
local epoch = redis.call('HGET', key, 'epoch')
if not epoch then return {} end

local only_some = redis.call('EXISTS', key .. ':only') == 1
local exceptions = redis.call('EXISTS', key .. ':outcome') == 1

local senders, lowest, asking, cut_short = {}, math.huge, 0, false
for at = 2, #ARGV, 2 do
  local user, above = ARGV[at], tonumber(ARGV[at + 1])
  lowest, asking = math.min(lowest, above), asking + 1
  senders[user] = {
    user = user, above = above, rows = {},
    joined = tonumber(redis.call('ZSCORE', key .. ':joined', user) or 'inf'),
    delivered = tonumber(redis.call('ZSCORE', key .. ':delivered', user) or -1),
    read = tonumber(redis.call('ZSCORE', key .. ':read', user) or -1),
  }
end

local members = redis.call('ZCARD', key .. ':joined')

-- Return a function that says how many of a sorted set stand at or above a seq, asked with falling seqs. For the first rows the
-- store counts; where there are more, and few members, they are read once: 200 rows in a room of two then cost 0.2 ms, not 2.
local function counter(name)
  local asked, scores, at, n = 0, nil, 0, 0
  return function(seq)
    asked = asked + 1
    if asked <= ROWS or members > FEW then return redis.call('ZCOUNT', key .. ':' .. name, seq, '+inf') end
    if not scores then
      scores = redis.call('ZRANGE', key .. ':' .. name, 0, -1, 'WITHSCORES')
      at = #scores
    end
    while at > 0 and tonumber(scores[at]) >= seq do n, at = n + 1, at - 2 end
    return n
  end
end

local later, delivered_by, read_by = counter('joined'), counter('delivered'), counter('read')

-- Cursors at or above a seq, of those who joined before it: who joined later stands above it too, and owes nothing.
local function everybody(seq, sender)
  local after = later(seq)
  local own = sender.joined < seq and 1 or 0
  local delivered = delivered_by(seq) - after - (sender.delivered >= seq and own or 0)
  local read = read_by(seq) - after - (sender.read >= seq and own or 0)
  return delivered, read, members - after - own
end

local function at_or_above(cursors, seq, member)
  return tonumber(redis.call('ZSCORE', key .. ':' .. cursors, member) or -1) >= tonumber(seq) and 1 or 0
end

local named = 0
local function addressed(seq, sender, only)
  local delivered, read, total = 0, 0, 0
  named = named + #only
  if named > NAMES then -- a resend to thousands has no receipt
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

-- One may have several rows: passed over once before and once after an attempt. Who left and joined again owes no more. Past
-- CHECKS rows each counts as one whose cursor is above the seq, as it soon will be: the sender is told too few, never too many.
local checks = 0
local function unheld(seq)
  local delivered, read, known = 0, 0, {}
  local count = redis.call('ZCOUNT', key .. ':outcome', seq, seq)
  checks = checks + count
  if checks > CHECKS then
    cut_short = true
    return count, count
  end
  for _, row in ipairs(redis.call('ZRANGEBYSCORE', key .. ':outcome', seq, seq)) do
    local member = string.match(row, '^%d+|(%d+)|')
    local joined = redis.call('ZSCORE', key .. ':joined', member)
    if not known[member] and joined and tonumber(joined) < tonumber(seq) then
      known[member] = true
      delivered = delivered + at_or_above('delivered', seq, member)
      read = read + at_or_above('read', seq, member)
    end
  end
  return delivered, read
end

local function add(seq, text, sender)
  local only = only_some and redis.call('HGET', key .. ':only', text)
  local delivered, read, total
  if only then delivered, read, total = addressed(text, sender, only) else delivered, read, total = everybody(seq, sender) end
  if exceptions then
    local undelivered, unread = unheld(text)
    delivered, read = math.max(0, delivered - undelivered), math.max(0, read - unread)
  end
  if total > 0 then
    local rows, n = sender.rows, #sender.rows
    rows[n + 1], rows[n + 2], rows[n + 3], rows[n + 4] = seq, delivered, read < delivered and read or delivered, total
    if n + 4 == FIELDS * MOST then asking = asking - 1 end
  end
end

for from = 0, LOOK - 1, STEP do
  local entries = redis.call('ZREVRANGEBYSCORE', key .. ':live', '+inf', string.format('(%.0f', lowest), 'LIMIT', from, STEP)
  for _, entry in ipairs(entries) do
    local text, user = string.match(entry, '^(%d+)|(%d+)|')
    local sender, seq = senders[user], tonumber(text)
    if sender and seq > sender.above and #sender.rows < FIELDS * MOST and string.sub(entry, -2) ~= '|u' then add(seq, text, sender) end
  end
  if #entries < STEP or asking == 0 then break end
end
if cut_short and #ARGV > 3 then return -1 end
local answer = {epoch}
for at = 2, #ARGV, 2 do answer[#answer + 1] = senders[ARGV[at]].rows end
return answer
