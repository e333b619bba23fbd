#!lua flags=no-writes
-- Find the members, of those given, who owe a live message at or below a mark. The messages are read once for all members, from the
-- newest down: usually the first row decides. Members whose cursor is below the last of MAX_ROWS rows count as owing, because they are
-- far behind. A member does not owe a message that they rejected; at most MAX_CHECKS rejections are looked up.
-- Returns {user, cursor, attempts value or '', ...} of the members who owe; {} for another epoch
-- Uses clock, has_expired, rejecters
-- Uses entries: is_tracked, parse_live_entry
local prefix       = KEYS[1]           -- of the partition's keys
local room_id      = ARGV[1]
local epoch        = ARGV[2]
local mark         = ARGV[3]           -- seq; '': no limit
local max_attempts = tonumber(ARGV[4])
local FIRST_USER   = 5                 -- ARGV: then at most 500 user ids

local STEP, MAX_ROWS, MAX_CHECKS = 50, 1000, 1000
local key = prefix .. 'room:' .. room_id
if #ARGV < FIRST_USER or redis.call('HGET', key, 'epoch') ~= epoch then return {} end
local now = now_ms()
local only_some = redis.call('EXISTS', key .. ':only') == 1
local some_rejected = redis.call('EXISTS', key .. ':outcome') == 1

local users, checks = {unpack(ARGV, FIRST_USER)}, 0
local cursors, undecided, owes, lowest, some_tracked = {}, {}, {}, math.huge, false
for i, cursor in ipairs(redis.call('ZMSCORE', key .. ':delivered', unpack(users))) do
  if cursor then
    cursors[users[i]] = cursor
    undecided[users[i]] = tonumber(cursor)
    lowest = math.min(lowest, tonumber(cursor))
  end
end

-- Return the undecided members who rejected a message: {user = attempts}.
local function rejected_by(seq)
  local below = {}
  if some_rejected and checks < MAX_CHECKS then
    for user, cursor in pairs(undecided) do
      if cursor < tonumber(seq) then below[#below + 1] = user end
    end
  end
  checks = checks + #below
  return #below > 0 and rejecters(key, seq, below, max_attempts) or {}
end

-- Decide for the members with these user ids, of which there may be thousands: the loop does as little as possible.
local function decide_some(only, seq, sender, rejected)
  for user in string.gmatch(only, '%d+') do
    local cursor = undecided[user]
    if cursor and user ~= sender and not rejected[user] then
      owes[user] = cursor < seq
      if owes[user] then undecided[user] = nil end
    end
  end
end

-- Decide for all members except the sender and those who rejected the message: for them an older row decides.
local function decide_all(seq, sender, rejected)
  lowest = math.huge
  for user, cursor in pairs(undecided) do
    if user == sender or rejected[user] then lowest = math.min(lowest, cursor)
    else
      owes[user] = cursor < seq
      undecided[user] = nil
    end
  end
end

local looked = 0
local function look(entry)
  local seq, sender = parse_live_entry(entry)
  local tracked = is_tracked(entry)
  some_tracked = some_tracked or tracked
  if tracked and not has_expired(key, seq, now) then
    local only = only_some and redis.call('HGET', key .. ':only', seq)
    local rejected = rejected_by(seq)
    if not only then decide_all(tonumber(seq), sender, rejected)
    else
      looked = looked + #only / 32 -- thousands of user ids are as much work as many rows: 10,000 take 3 ms
      decide_some(only, tonumber(seq), sender, rejected)
    end
  end
  return tonumber(seq)
end

local from = mark == '' and '+inf' or mark
while lowest < math.huge do
  local entries = redis.call('ZREVRANGEBYSCORE', key .. ':live', from, string.format('(%.0f', lowest), 'LIMIT', 0, STEP)
  local seq
  for _, entry in ipairs(entries) do
    seq = look(entry)
    if seq <= lowest or lowest == math.huge or looked >= MAX_ROWS then break end
  end
  looked = looked + #entries
  if looked >= MAX_ROWS then
    for user in pairs(undecided) do owes[user] = some_tracked and undecided[user] < seq end
    break
  end
  if #entries < STEP then break end
  from = string.format('(%.0f', seq)
end

local answer = {}
for _, user in ipairs(users) do
  if owes[user] then
    answer[#answer + 1] = user
    answer[#answer + 1] = cursors[user]
    answer[#answer + 1] = redis.call('HGET', key .. ':attempts', user) or ''
  end
end
return answer
