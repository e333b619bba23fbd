#!lua flags=allow-oom
-- Raise cursors, never lower them; a read cursor is at most the delivered cursor. A raised delivered cursor clears the attempts.
-- An acknowledgement may arrive just after its user left: it raises the cursor that `leave` has kept.
-- Messages that the member got only after their end are recorded in `outcome`.
-- Equal acknowledgements are a group, with one command of each kind, because most members of a room receive the same message at once.
-- Publishes 'A <seq>' for each room: no cursor that moved was below that seq.
-- Returns for each acknowledgement 1 moved, 2 moved a part of the way: call again, 0 not moved, -1 the room has no log, -2 not a member,
--   -3 another epoch, -5 above top
-- Uses clock, count
-- Uses late: late_recorder, some_may_have_ended
local prefix       = KEYS[1]           -- of the partition's keys
local lease_ms     = tonumber(ARGV[1]) -- of a claim of ended messages
local FIRST        = 2                 -- ARGV: then groups of equal acknowledgements. Each has 7 values, then its user ids: room id,
local GROUP_FIELDS = 7                 --   epoch, delivered (seq, '' none), read (seq, '' none), late (seq,seq,...), judged ('1': the
                                       --   client has named all late messages, '' some may be missing), number of users
local MAX_LEFT     = 100               -- the members who left last, among whom such a user is looked for
local rooms, lowest_of_room, leavers, answers, passed, args, call = {}, {}, {}, {}, 0, ARGV, redis.call
local now, some_ended = nil, nil

local function refusal(room, epoch, delivered, read)
  if not room[1] then return -1 end
  if room[1] ~= epoch then return -3 end
  local top = tonumber(room[2])
  if (delivered or 0) > top or (read or 0) > top then return -5 end
end

-- Return {user: row} of the members who left last. A user who left twice has the later row.
local function leavers_of(key)
  local rows, left = {}, call('ZREVRANGE', key .. ':left', 0, MAX_LEFT - 1, 'WITHSCORES')
  for i = 1, #left, 2 do
    local user, joined, cursor = string.match(left[i], '^(%d+)|(%d+)|(%d+)$')
    -- top: that of the room when they left
    rows[user] = rows[user] or { value = left[i], joined = joined, cursor = tonumber(cursor), top = tonumber(left[i + 1]) }
  end
  return rows
end

-- Return whether a message of the partition may have ended.
local function may_have_ended()
  now = now or now_ms()
  if some_ended == nil then some_ended = some_may_have_ended(prefix, now, lease_ms) end
  return some_ended
end

-- Raise the cursor of a member who left. Return it as it was, nil if it is not raised; and the seq up to which it may rise.
local function raise_left(key, user, delivered, record)
  leavers[key] = leavers[key] or leavers_of(key)
  local row = leavers[key][user]
  if not row or math.min(delivered, row.top) <= row.cursor then return nil end
  local upto = record(user, row.joined, row.cursor)
  local raised = math.min(upto, row.top)
  passed = passed + call('ZCOUNT', key .. ':live', string.format('(%.0f', row.cursor), raised)
  call('ZREM', key .. ':left', row.value)
  if call('ZCOUNT', key .. ':live', string.format('(%.0f', raised), row.top) > 0 then
    call('ZADD', key .. ':left', row.top, string.format('%s|%s|%.0f', user, row.joined, raised))
  end
  leavers[key][user] = nil -- the caller merges the acknowledgements of a user
  return row.cursor, upto
end

local function raise(key, first, last, delivered, read, late, judged)
  local cursors = call('ZMSCORE', key .. ':delivered', unpack(args, first, last))
  local read_cursors = read and call('ZMSCORE', key .. ':read', unpack(args, first, last))
  local raised, raised_users, raised_read, lowest, counted_from, live = {}, {}, {}, math.huge, nil, 0
  local check = delivered and judged == '' and may_have_ended()
  local record = delivered and late_recorder(key, delivered, late, check and now)
  for i = 1, #cursors do
    local user, cursor, answer = args[first + i - 1], cursors[i] and tonumber(cursors[i]), 0
    if not cursor then
      local left_at, upto
      if delivered then left_at, upto = raise_left(key, user, delivered, record) end
      answer = not left_at and -2 or upto < delivered and 2 or 1
      lowest = math.min(lowest, left_at or lowest)
    else
      if delivered and delivered > cursor then
        local upto = record(user, nil, cursor)
        -- Count the live messages that the cursor passes. Cursors of a group often begin at the same seq: then they are counted once.
        if cursor ~= counted_from then
          live, counted_from = call('ZCOUNT', key .. ':live', string.format('(%.0f', cursor), upto), cursor
        end
        passed, lowest, answer = passed + live, math.min(lowest, cursor), upto < delivered and 2 or 1
        raised[#raised + 1], raised[#raised + 2], raised_users[#raised_users + 1] = upto, user, user
        cursor = upto
      end
      local read_before = read_cursors and read_cursors[i] and tonumber(read_cursors[i])
      local read_after = read_before and math.min(read, cursor)
      if read_after and read_after > read_before then
        lowest, answer = math.min(lowest, read_before), math.max(answer, 1)
        raised_read[#raised_read + 1], raised_read[#raised_read + 2] = string.format('%.0f', read_after), user
      end
    end
    answers[#answers + 1] = answer
  end
  if #raised_users > 0 then
    call('ZADD', key .. ':delivered', unpack(raised))
    call('HDEL', key .. ':attempts', unpack(raised_users))
  end
  if #raised_read > 0 then call('ZADD', key .. ':read', unpack(raised_read)) end
  if lowest < math.huge then lowest_of_room[key] = math.min(lowest_of_room[key] or math.huge, lowest) end
end

local offset = FIRST
while offset <= #args do
  local room_id, epoch, delivered, read, late, judged, users = unpack(args, offset, offset + GROUP_FIELDS - 1)
  delivered, read, users = tonumber(delivered), tonumber(read), tonumber(users)
  local key = prefix .. 'room:' .. room_id
  local room = rooms[room_id] or call('HMGET', key, 'epoch', 'top')
  rooms[room_id] = room
  local code = refusal(room, epoch, delivered, read)
  if code then
    for _ = 1, users do answers[#answers + 1] = code end
  else raise(key, offset + GROUP_FIELDS, offset + GROUP_FIELDS + users - 1, delivered, read, late, judged) end
  offset = offset + GROUP_FIELDS + users
end
if passed > 0 then count(prefix, now or now_ms(), 'delivered', passed) end
for key, lowest in pairs(lowest_of_room) do call('PUBLISH', key, string.format('A %.0f', lowest)) end
return answers
