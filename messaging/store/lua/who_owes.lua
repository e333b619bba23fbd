#!lua flags=no-writes
-- Say which of some members owe a live message: at or below a mark, or any. One walk for all of them, from the newest down: as a
-- rule its first row decides. Who stands below the last of MOST rows is said to owe, for he is that far behind. What a member
-- rejected he does not owe, as far as CHECKS look-ups reach.
-- KEYS[1] partition prefix; ARGV: room, epoch, mark ('' top), most attempts, then at most 500 user ids
-- Returns {user, cursor, value of attempts or '', ...}, only those who owe; {} for another epoch
local STEP, MOST, CHECKS = 50, 1000, 1000
local key = KEYS[1] .. 'room:' .. ARGV[1]
if #ARGV < 5 or redis.call('HGET', key, 'epoch') ~= ARGV[2] then return {} end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local only_some = redis.call('EXISTS', key .. ':only') == 1
local some_rejected = redis.call('EXISTS', key .. ':outcome') == 1

local users, checks = {unpack(ARGV, 5)}, 0
local cursors, undecided, owes, lowest, some_tracked = {}, {}, {}, math.huge, false
for i, cursor in ipairs(redis.call('ZMSCORE', key .. ':delivered', unpack(users))) do
  if cursor then
    cursors[users[i]] = cursor
    undecided[users[i]] = tonumber(cursor)
    lowest = math.min(lowest, tonumber(cursor))
  end
end

-- Who of the undecided rejected a message.
local function unshown_by(seq)
  local below = {}
  if some_rejected and checks < CHECKS then
    for user, cursor in pairs(undecided) do
      if cursor < tonumber(seq) then below[#below + 1] = user end
    end
  end
  checks = checks + #below
  return #below > 0 and rejecters(key, seq, below, tonumber(ARGV[4])) or {}
end

local function decide(user, seq, unshown)
  if not undecided[user] or unshown[user] then return end
  owes[user] = undecided[user] < seq
  if owes[user] then undecided[user] = nil end
end

-- Whose own it is, and who rejected it: for them an older row decides.
local function decide_all(seq, sender, unshown)
  lowest = math.huge
  for user, cursor in pairs(undecided) do
    if user == sender or unshown[user] then lowest = math.min(lowest, cursor)
    else
      owes[user] = cursor < seq
      undecided[user] = nil
    end
  end
end

local looked = 0
local function look(entry)
  local seq, sender = string.match(entry, '^(%d+)|(%d+)|')
  local tracked = string.sub(entry, -2) ~= '|u'
  some_tracked = some_tracked or tracked
  local expires_at = tracked and redis.call('HGET', key .. ':msg:' .. seq, 'expires_at')
  if expires_at and tonumber(expires_at) > now then
    local only = only_some and redis.call('HGET', key .. ':only', seq)
    local unshown = unshown_by(seq)
    if not only then decide_all(tonumber(seq), sender, unshown)
    else
      looked = looked + #only / 32 -- thousands of names are as much work as many rows: 10,000 take 3 ms
      for user in string.gmatch(only, '%d+') do
        if user ~= sender then decide(user, tonumber(seq), unshown) end
      end
    end
  end
  return tonumber(seq)
end

local from = ARGV[3] == '' and '+inf' or ARGV[3]
while lowest < math.huge do
  local entries = redis.call('ZREVRANGEBYSCORE', key .. ':live', from, string.format('(%.0f', lowest), 'LIMIT', 0, STEP)
  local seq
  for _, entry in ipairs(entries) do
    seq = look(entry)
    if seq <= lowest or lowest == math.huge or looked >= MOST then break end
  end
  looked = looked + #entries
  if looked >= MOST then
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
