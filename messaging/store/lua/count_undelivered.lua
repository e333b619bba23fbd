#!lua flags=no-writes
-- Count the live messages of a room that are above the cursor of a member who is not their sender. A check of all messages could take
-- too long: messages after the first LOOK_ROWS are counted without a check, and so are all after MAX_NAMES user ids or MAX_NAME_BYTES
-- of ids in resends.
-- Returns the count
-- Uses entries: is_tracked, parse_live_entry, seq_of
local prefix  = KEYS[1] -- of the partition's keys
local room_id = ARGV[1]

local LOOK_ROWS, MAX_NAMES, MAX_NAME_BYTES = 1000, 2000, 65536
local key = prefix .. 'room:' .. room_id
local first, lowest, _, second = unpack(redis.call('ZRANGE', key .. ':delivered', 0, 1, 'WITHSCORES'))
if not lowest then return 0 end
second = tonumber(second or 'inf')
local only_some, names, bytes = redis.call('EXISTS', key .. ':only') == 1, 0, 0

-- The message is above the lowest cursor. If it is above the second cursor too, one of these two members is not its sender.
local function is_undelivered(entry)
  local seq, sender = parse_live_entry(entry)
  if not is_tracked(entry) then return false end
  if bytes > MAX_NAME_BYTES then return true end
  local only = only_some and redis.call('HGET', key .. ':only', seq)
  bytes = bytes + (only and #only or 0)
  if not only then return sender ~= first or second < tonumber(seq) end
  for user in string.gmatch(only, '%d+') do
    names = names + 1
    if names > MAX_NAMES then return true end
    local cursor = user ~= sender and redis.call('ZSCORE', key .. ':delivered', user)
    if cursor and tonumber(cursor) < tonumber(seq) then return true end
  end
  return false
end

local entries = redis.call('ZRANGEBYSCORE', key .. ':live', '(' .. lowest, '+inf', 'LIMIT', 0, LOOK_ROWS)
local undelivered = 0
for _, entry in ipairs(entries) do
  if is_undelivered(entry) then undelivered = undelivered + 1 end
end
if #entries < LOOK_ROWS then return undelivered end
return undelivered + redis.call('ZCOUNT', key .. ':live', '(' .. seq_of(entries[LOOK_ROWS]), '+inf')
