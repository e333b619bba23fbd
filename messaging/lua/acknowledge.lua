#!lua flags=allow-oom
-- Raise cursors, never lower them; `read` is cut to `delivered`. An ack that moves the cursor clears the attempts.
-- KEYS[1] partition prefix; ARGV: for each ack, 5 values: room, epoch, user, delivered ('' none), read ('' none)
-- Publishes 'A <seq>' for each room: no cursor that moved stood below it.
-- Returns for each 1 moved, 0 not, -1 the room has no log, -2 not a member, -3 another epoch, -5 above top
local prefix, rooms, moved_rooms, answers, passed, live = KEYS[1], {}, {}, {}, 0, {}

-- Live messages that a cursor passes. Many members of a room move alike: each stretch is counted once.
local function live_between(key, from, upto)
  local stretch = key .. '|' .. from .. '|' .. upto
  if not live[stretch] then live[stretch] = redis.call('ZCOUNT', key .. ':live', '(' .. from, upto) end
  return live[stretch]
end

local function moves(key, from)
  moved_rooms[key] = math.min(moved_rooms[key] or math.huge, tonumber(from))
  return 1
end

for at = 1, #ARGV, 5 do
  local name, user, delivered, read = ARGV[at], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local key = prefix .. 'room:' .. name
  local room = rooms[name] or redis.call('HMGET', key, 'epoch', 'top')
  rooms[name] = room
  local answer = 0
  if not room[1] then answer = -1
  elseif room[1] ~= ARGV[at + 1] then answer = -3
  elseif tonumber(delivered ~= '' and delivered or 0) > tonumber(room[2])
    or tonumber(read ~= '' and read or 0) > tonumber(room[2]) then answer = -5
  else
    local cursor = redis.call('ZSCORE', key .. ':delivered', user)
    if not cursor then answer = -2
    elseif delivered ~= '' and tonumber(delivered) > tonumber(cursor) then
      redis.call('ZADD', key .. ':delivered', delivered, user)
      redis.call('HDEL', key .. ':attempts', user)
      passed = passed + live_between(key, cursor, delivered)
      answer = moves(key, cursor)
      cursor = delivered
    end
    local before = cursor and read ~= '' and redis.call('ZSCORE', key .. ':read', user)
    if before then
      local cut = math.min(tonumber(read), tonumber(cursor))
      if cut > tonumber(before) then
        redis.call('ZADD', key .. ':read', string.format('%.0f', cut), user)
        answer = moves(key, before)
      end
    end
  end
  answers[#answers + 1] = answer
end
if passed > 0 then
  local clock = redis.call('TIME')
  count(prefix, clock[1] * 1000 + math.floor(clock[2] / 1000), 'delivered', passed)
end
for key, from in pairs(moved_rooms) do redis.call('PUBLISH', key, string.format('A %.0f', from)) end
return answers
