#!lua flags=no-writes
-- Count who holds a sender's messages among the room's newest 1,000 live ones, for at most 200 of them.
-- KEYS[1] partition prefix; ARGV: room, user
-- Returns {epoch, seq, delivered, read, total, ...} ascending; rows that nobody owes are left out
local LOOK, MOST = 999, 200
local key, user = KEYS[1] .. 'room:' .. ARGV[1], ARGV[2]
local epoch = redis.call('HGET', key, 'epoch')
if not epoch then return {} end

local only_some = redis.call('EXISTS', key .. ':only') == 1
local exceptions = redis.call('EXISTS', key .. ':outcome') == 1
local own_joined = tonumber(redis.call('ZSCORE', key .. ':joined', user) or 'inf')
local own_delivered = tonumber(redis.call('ZSCORE', key .. ':delivered', user) or -1)
local own_read = tonumber(redis.call('ZSCORE', key .. ':read', user) or -1)

-- Cursors at or above a seq, of those who joined before it: who joined later stands above it too, and owes nothing.
local function count(cursors, seq, later, own)
  local n = redis.call('ZCOUNT', key .. ':' .. cursors, seq, '+inf') - later
  if own_joined < tonumber(seq) and own >= tonumber(seq) then n = n - 1 end
  return n
end

local function everybody(seq)
  local later = redis.call('ZCOUNT', key .. ':joined', seq, '+inf')
  local total = redis.call('ZCARD', key .. ':joined') - later
  if own_joined < tonumber(seq) then total = total - 1 end
  return count('delivered', seq, later, own_delivered), count('read', seq, later, own_read), total
end

local function at_or_above(cursors, seq, member)
  return tonumber(redis.call('ZSCORE', key .. ':' .. cursors, member) or -1) >= tonumber(seq) and 1 or 0
end

local function addressed(seq, only)
  local delivered, read, total = 0, 0, 0
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

-- One may have several rows: passed over once before and once after an attempt.
local function unheld(seq)
  local delivered, read, known = 0, 0, {}
  for _, row in ipairs(redis.call('ZRANGEBYSCORE', key .. ':outcome', seq, seq)) do
    local member = string.match(row, '^%d+|(%d+)|')
    if not known[member] then
      known[member] = true
      delivered = delivered + at_or_above('delivered', seq, member)
      read = read + at_or_above('read', seq, member)
    end
  end
  return delivered, read
end

local rows = {}
for _, entry in ipairs(redis.call('ZREVRANGE', key .. ':live', 0, LOOK)) do
  local seq, sender = string.match(entry, '^(%d+)|(%d+)|')
  if sender == user then
    local only = only_some and redis.call('HGET', key .. ':only', seq)
    local delivered, read, total
    if only then delivered, read, total = addressed(seq, only) else delivered, read, total = everybody(seq) end
    if exceptions then
      local undelivered, unread = unheld(seq)
      delivered, read = delivered - undelivered, read - unread
    end
    if total > 0 then rows[#rows + 1] = {tonumber(seq), delivered, math.min(read, delivered), total} end
    if #rows == MOST then break end
  end
end
local answer = {epoch}
for i = #rows, 1, -1 do
  for _, value in ipairs(rows[i]) do answer[#answer + 1] = value end
end
return answer
