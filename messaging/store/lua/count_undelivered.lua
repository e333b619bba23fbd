#!lua flags=no-writes
-- Count the live messages of a room that somebody who did not write them stands below: those on their way. Past the first WALK of
-- them, and past NAMES names or BYTES of names of whom resends are for, each counts.
-- KEYS[1] partition prefix; ARGV: room
-- Returns the count
local WALK, NAMES, BYTES = 1000, 2000, 65536
local key = KEYS[1] .. 'room:' .. ARGV[1]
local first, lowest, _, second = unpack(redis.call('ZRANGE', key .. ':delivered', 0, 1, 'WITHSCORES'))
if not lowest then return 0 end
second = tonumber(second or 'inf')
local only_some, names, bytes = redis.call('EXISTS', key .. ':only') == 1, 0, 0

-- Of two members behind, one did not write it.
local function lacked(entry)
  local seq, sender = string.match(entry, '^(%d+)|(%d+)|')
  if string.sub(entry, -2) == '|u' then return false end
  if bytes > BYTES then return true end
  local only = only_some and redis.call('HGET', key .. ':only', seq)
  bytes = bytes + (only and #only or 0)
  if not only then return sender ~= first or second < tonumber(seq) end
  for user in string.gmatch(only, '%d+') do
    names = names + 1
    if names > NAMES then return true end
    local cursor = user ~= sender and redis.call('ZSCORE', key .. ':delivered', user)
    if cursor and tonumber(cursor) < tonumber(seq) then return true end
  end
  return false
end

local entries = redis.call('ZRANGEBYSCORE', key .. ':live', '(' .. lowest, '+inf', 'LIMIT', 0, WALK)
local count = 0
for _, entry in ipairs(entries) do
  if lacked(entry) then count = count + 1 end
end
if #entries < WALK then return count end
return count + redis.call('ZCOUNT', key .. ':live', '(' .. string.match(entries[WALK], '^%d+'), '+inf')
