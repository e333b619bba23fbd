#!lua flags=allow-oom
-- Raise cursors, never lower them; `read` is cut to `delivered`. An ack that moves the cursor clears the attempts.
-- KEYS[1] partition prefix; ARGV: for each ack, 5 values: room, epoch, user, delivered ('' none), read ('' none)
-- Returns for each 1 moved, 0 not, -1 the room has no log, -2 not a member, -3 another epoch, -5 above top
local prefix, rooms, moved_rooms, answers = KEYS[1], {}, {}, {}
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
    if delivered ~= '' then
      answer = redis.call('ZADD', key .. ':delivered', 'XX', 'GT', 'CH', delivered, user)
      if answer == 1 then redis.call('HDEL', key .. ':attempts', user) end
    end
    if read ~= '' then
      local cursor = redis.call('ZSCORE', key .. ':delivered', user)
      if not cursor then answer = -2
      else
        local cut = math.min(tonumber(read), tonumber(cursor))
        local moved = redis.call('ZADD', key .. ':read', 'XX', 'GT', 'CH', string.format('%.0f', cut), user)
        answer = math.max(answer, moved)
      end
    end
    if answer == 1 then moved_rooms[key] = true end
  end
  answers[#answers + 1] = answer
end
for key in pairs(moved_rooms) do redis.call('PUBLISH', key, 'A') end
return answers
