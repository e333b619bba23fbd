#!lua flags=no-writes
-- Count who holds a sender's messages among the room's newest 1,000 live ones, for at most 200 of them.
-- KEYS[1] partition prefix; ARGV: room, user, above (seq: what stands at or below it is not asked)
-- Returns {epoch, seq, delivered, read, total, ...} ascending; rows that nobody owes are left out
local LOOK, STEP, MOST, FEW, CHECKS, NAMES = 1000, 250, 200, 1000, 300, 16384
local key, user, above = KEYS[1] .. 'room:' .. ARGV[1], ARGV[2], tonumber(ARGV[3])
local epoch = redis.call('HGET', key, 'epoch')
if not epoch then return {} end

local only_some = redis.call('EXISTS', key .. ':only') == 1
local exceptions = redis.call('EXISTS', key .. ':outcome') == 1
local own_joined = tonumber(redis.call('ZSCORE', key .. ':joined', user) or 'inf')
local own_delivered = tonumber(redis.call('ZSCORE', key .. ':delivered', user) or -1)
local own_read = tonumber(redis.call('ZSCORE', key .. ':read', user) or -1)

-- Return a function that says how many of a sorted set stand at or above a seq, asked with falling seqs. Few are read once:
-- 200 rows in a room of two then cost 0.2 ms, with a count in the store for each 2 ms.
local function counter(name)
  if redis.call('ZCARD', key .. ':' .. name) > FEW then
    return function(seq) return redis.call('ZCOUNT', key .. ':' .. name, seq, '+inf') end
  end
  local scores = redis.call('ZRANGE', key .. ':' .. name, 0, -1, 'WITHSCORES')
  local at, n = #scores, 0
  return function(seq)
    while at > 0 and tonumber(scores[at]) >= seq do n, at = n + 1, at - 2 end
    return n
  end
end

local members = redis.call('ZCARD', key .. ':joined')
local later, delivered_by, read_by = counter('joined'), counter('delivered'), counter('read')

-- Cursors at or above a seq, of those who joined before it: who joined later stands above it too, and owes nothing.
local function everybody(seq)
  local after = later(seq)
  local own = own_joined < seq and 1 or 0
  local delivered = delivered_by(seq) - after - (own_delivered >= seq and own or 0)
  local read = read_by(seq) - after - (own_read >= seq and own or 0)
  return delivered, read, members - after - own
end

local function at_or_above(cursors, seq, member)
  return tonumber(redis.call('ZSCORE', key .. ':' .. cursors, member) or -1) >= tonumber(seq) and 1 or 0
end

local named = 0
local function addressed(seq, only)
  local delivered, read, total = 0, 0, 0
  named = named + #only
  if named > NAMES then return 0, 0, 0 end -- a resend to thousands has no receipt
  for member in string.gmatch(only, '%d+') do
    local joined = redis.call('ZSCORE', key .. ':joined', member)
    if joined and member ~= user and tonumber(joined) < tonumber(seq) then
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
  if checks > CHECKS then return count, count end
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

local rows = {}
local function add(seq)
  local only = only_some and redis.call('HGET', key .. ':only', seq)
  local delivered, read, total
  if only then delivered, read, total = addressed(seq, only) else delivered, read, total = everybody(tonumber(seq)) end
  if exceptions then
    local undelivered, unread = unheld(seq)
    delivered, read = math.max(0, delivered - undelivered), math.max(0, read - unread)
  end
  if total > 0 then rows[#rows + 1] = {tonumber(seq), delivered, math.min(read, delivered), total} end
end

for from = 0, LOOK - 1, STEP do
  local entries = redis.call('ZREVRANGEBYSCORE', key .. ':live', '+inf', string.format('(%.0f', above), 'LIMIT', from, STEP)
  for _, entry in ipairs(entries) do
    local seq, sender = string.match(entry, '^(%d+)|(%d+)|')
    if sender == user and #rows < MOST and string.sub(entry, -2) ~= '|u' then add(seq) end
  end
  if #entries < STEP or #rows == MOST then break end
end
local answer = {epoch}
for i = #rows, 1, -1 do
  for _, value in ipairs(rows[i]) do answer[#answer + 1] = value end
end
return answer
