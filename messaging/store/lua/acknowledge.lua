#!lua flags=allow-oom
-- Raise cursors, never lower them; `read` is cut to `delivered`. An ack that moves the cursor clears the attempts.
-- KEYS[1] partition prefix; ARGV: groups of acks that say the same: room, epoch, delivered ('' none), read ('' none), how many,
--   then so many users
-- Publishes 'A <seq>' for each room: no cursor that moved stood below it.
-- Returns for each ack 1 moved, 0 not, -1 the room has no log, -2 not a member, -3 another epoch, -5 above top
-- A group is one command of each kind: most members of a room have just got the same message.
local HEAD = 5
local prefix, rooms, moved_rooms, answers, passed, call = KEYS[1], {}, {}, {}, 0, redis.call

local function refusal(room, epoch, delivered, read)
  if not room[1] then return -1 end
  if room[1] ~= epoch then return -3 end
  local top = tonumber(room[2])
  if (delivered or 0) > top or (read or 0) > top then return -5 end
end

local function settle(key, ARGV, first, last, delivered, read)
  local cursors = call('ZMSCORE', key .. ':delivered', unpack(ARGV, first, last))
  local reads = read and call('ZMSCORE', key .. ':read', unpack(ARGV, first, last))
  local further, users, seen, lowest, counted_from, live = {}, {}, {}, math.huge, nil, 0
  for i = 1, #cursors do
    local user, cursor, answer = ARGV[first + i - 1], cursors[i] and tonumber(cursors[i]), 0
    if not cursor then answer = -2
    else
      if delivered and delivered > cursor then
        -- Live messages that a cursor passes. Many move alike: each stretch is counted once.
        if cursor ~= counted_from then
          live, counted_from = call('ZCOUNT', key .. ':live', string.format('(%.0f', cursor), delivered), cursor
        end
        passed, lowest, answer = passed + live, math.min(lowest, cursor), 1
        further[#further + 1], further[#further + 2], users[#users + 1] = delivered, user, user
        cursor = delivered
      end
      local before = reads and reads[i] and tonumber(reads[i])
      local to = before and math.min(read, cursor)
      if to and to > before then
        lowest, answer = math.min(lowest, before), 1
        seen[#seen + 1], seen[#seen + 2] = string.format('%.0f', to), user
      end
    end
    answers[#answers + 1] = answer
  end
  if #users > 0 then
    call('ZADD', key .. ':delivered', unpack(further))
    call('HDEL', key .. ':attempts', unpack(users))
  end
  if #seen > 0 then call('ZADD', key .. ':read', unpack(seen)) end
  if lowest < math.huge then moved_rooms[key] = math.min(moved_rooms[key] or math.huge, lowest) end
end

local at = 1
while at <= #ARGV do
  local name, delivered, read, n = ARGV[at], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local key = prefix .. 'room:' .. name
  local room = rooms[name] or call('HMGET', key, 'epoch', 'top')
  rooms[name] = room
  local code = refusal(room, ARGV[at + 1], delivered, read)
  if code then
    for _ = 1, n do answers[#answers + 1] = code end
  else settle(key, ARGV, at + HEAD, at + HEAD + n - 1, delivered, read) end
  at = at + HEAD + n
end
if passed > 0 then
  local clock = call('TIME')
  count(prefix, clock[1] * 1000 + math.floor(clock[2] / 1000), 'delivered', passed)
end
for key, from in pairs(moved_rooms) do call('PUBLISH', key, string.format('A %.0f', from)) end
return answers
