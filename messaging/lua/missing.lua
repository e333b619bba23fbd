#!lua flags=no-writes
-- Say who owes live messages and does not hold them.
-- KEYS[1] partition prefix; ARGV: room, most names for each, then seqs
-- Returns for each {sender, id, missing in all, user, reason, attempts, ...}, or 0 where the seq is not live
local key, most = KEYS[1] .. 'room:' .. ARGV[1], tonumber(ARGV[2])

local function report(seq)
  local entry = redis.call('ZRANGEBYSCORE', key .. ':live', seq, seq)[1]
  if not entry then return 0 end
  local sender, id = string.match(entry, '^%d+|(%d+)|(.*)$')
  local only = redis.call('HGET', key .. ':only', seq)
  local row, total, named = {sender, id, 0}, 0, {}

  local function add(user, reason, attempts)
    if named[user] or user == sender then return end
    if only and not string.find(',' .. only .. ',', ',' .. user .. ',', 1, true) then return end
    named[user] = true
    total = total + 1
    if total > most then return end
    row[#row + 1] = user
    row[#row + 1] = reason
    row[#row + 1] = attempts
  end

  for _, exception in ipairs(redis.call('ZRANGEBYSCORE', key .. ':outcome', seq, seq)) do
    local user, reason, attempts = string.match(exception, '^%d+|(%d+)|([^|]*)|(%d+)$')
    add(user, reason, attempts)
  end
  for _, user in ipairs(redis.call('ZRANGEBYSCORE', key .. ':delivered', '-inf', '(' .. seq)) do
    local joined = redis.call('ZSCORE', key .. ':joined', user)
    if joined and tonumber(joined) < tonumber(seq) then
      local attempts = string.match(redis.call('HGET', key .. ':attempts', user) or '', '^%d+') or '0'
      add(user, attempts == '0' and 'offline' or 'no_ack', attempts)
    end
  end
  for _, leaver in ipairs(redis.call('ZRANGEBYSCORE', key .. ':left', seq, '+inf')) do
    local user, joined, cursor = string.match(leaver, '^(%d+)|(%d+)|(%d+)$')
    if tonumber(joined) < tonumber(seq) and tonumber(cursor) < tonumber(seq) then add(user, 'left_room', '0') end
  end
  row[3] = total
  return row
end

local answer = {}
for i = 3, #ARGV do answer[#answer + 1] = report(ARGV[i]) end
return answer
