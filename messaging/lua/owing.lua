#!lua flags=no-writes
-- Say which of some members owe a live message: at or below a mark, or any.
-- KEYS[1] partition prefix; ARGV: room, epoch, mark ('' top), then user ids
-- Returns {user, cursor, value of attempts or '', ...}, only those who owe; {} for another epoch
local LOOK = 100
local key = KEYS[1] .. 'room:' .. ARGV[1]
if redis.call('HGET', key, 'epoch') ~= ARGV[2] then return {} end
local mark = ARGV[3] == '' and '+inf' or ARGV[3]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local only_some = redis.call('EXISTS', key .. ':only') == 1

local function addressed(seq, user)
  local only = only_some and redis.call('HGET', key .. ':only', seq)
  return not only or string.find(',' .. only .. ',', ',' .. user .. ',', 1, true)
end

local function owes(user, from)
  while true do
    local entries = redis.call('ZRANGEBYSCORE', key .. ':live', '(' .. from, mark, 'LIMIT', 0, LOOK)
    for _, entry in ipairs(entries) do
      local seq, sender = string.match(entry, '^(%d+)|(%d+)|')
      if sender ~= user and addressed(seq, user) then
        local expires_at = redis.call('HGET', key .. ':msg:' .. seq, 'expires_at')
        if expires_at and tonumber(expires_at) > now then return true end
      end
      from = seq
    end
    if #entries < LOOK then return false end
  end
end

local answer = {}
for i = 4, #ARGV do
  local user = ARGV[i]
  local cursor = redis.call('ZSCORE', key .. ':delivered', user)
  if cursor and owes(user, cursor) then
    answer[#answer + 1] = user
    answer[#answer + 1] = cursor
    answer[#answer + 1] = redis.call('HGET', key .. ':attempts', user) or ''
  end
end
return answer
