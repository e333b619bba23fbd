#!lua flags=allow-oom
-- Say where members stand in a room; a `since` of the room's epoch above the cursor counts as an acknowledgement.
-- KEYS[1] partition prefix; ARGV: room, most members for presence, then for each user: user, epoch ('' none), since
-- Publishes 'A <seq>': no cursor that moved stood below it.
-- Returns {epoch, top, rev, members, {user, ...} or {} where they are more, {row, ...}} where the row of a user is
--   {delivered, read, joined, unread (at most 100)}
--   or a code: -2 not a member, -3 nothing was done: ask for him alone
--   or -1: the room has no log
local FIRST_USER, EACH, UNREAD_MOST = 3, 3, 100
local key, call = KEYS[1] .. 'room:' .. ARGV[1], redis.call
local room = call('HMGET', key, 'epoch', 'top', 'rev', 'members')
if not room[1] then return -1 end
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local only_some = call('EXISTS', key .. ':only') == 1

-- What is unread above a seq: how many in all and from whom, and those that are for some only.
local function look(above)
  local window = {above = above, all = 0, from = {}, only = {}}
  for _, entry in ipairs(call('ZRANGEBYSCORE', key .. ':live', string.format('(%.0f', above), '+inf', 'LIMIT', 0, UNREAD_MOST)) do
    local seq, sender = string.match(entry, '^(%d+)|(%d+)|')
    local expires_at = call('HGET', key .. ':msg:' .. seq, 'expires_at')
    if expires_at and tonumber(expires_at) > now then
      local only = only_some and call('HGET', key .. ':only', seq)
      if only then window.only[#window.only + 1] = {sender, only}
      else
        window.all = window.all + 1
        window.from[sender] = (window.from[sender] or 0) + 1
      end
    end
  end
  return window
end

local function unread(window, user)
  local n = window.all - (window.from[user] or 0)
  for _, one in ipairs(window.only) do
    if one[1] ~= user and string.find(',' .. one[2] .. ',', ',' .. user .. ',', 1, true) then n = n + 1 end
  end
  return n
end

local rows, window, passed, lowest = {}, nil, 0, math.huge
for i = FIRST_USER, #ARGV, EACH do
  local user, epoch, since = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local joined = call('ZSCORE', key .. ':joined', user)
  local read = joined and (call('ZSCORE', key .. ':read', user) or joined)
  local above = joined and math.max(tonumber(read), tonumber(joined))
  if not joined then rows[#rows + 1] = -2
  elseif window and (window.above ~= above or #window.only > 0) then rows[#rows + 1] = -3 -- one look in a call
  else
    window = window or look(above)
    if epoch == room[1] and tonumber(since) <= tonumber(room[2]) then
      local cursor = call('ZSCORE', key .. ':delivered', user)
      if call('ZADD', key .. ':delivered', 'XX', 'GT', 'CH', since, user) == 1 then
        call('HDEL', key .. ':attempts', user)
        passed, lowest = passed + call('ZCOUNT', key .. ':live', '(' .. cursor, since), math.min(lowest, tonumber(cursor))
      end
    end
    rows[#rows + 1] = {call('ZSCORE', key .. ':delivered', user), read, joined, unread(window, user)}
  end
end
count(KEYS[1], now, 'delivered', passed)
if lowest < math.huge then call('PUBLISH', key, string.format('A %.0f', lowest)) end
local people = {}
if call('ZCARD', key .. ':joined') <= tonumber(ARGV[2]) then people = call('ZRANGE', key .. ':joined', 0, -1) end
return {room[1], room[2], room[3], room[4], people, rows}
