#!lua
-- Accept a batch of messages: number, store and index them, keep the answers for their ids, publish them. A repeated id gets its
-- first answer. Everything is checked before the first write, because a script has no rollback.
-- Returns for each message an answer 'epoch|seq|sent_at|expires_at', with '=' before it for a repeat, or a code:
--   -1 the room has no log, -2 not a member, -3 the id was used for other content, -4 reply_to is not a message
-- Uses clock, count, entries
local first_prefix      = KEYS[1]           -- of the first message's partition; in a Cluster all messages are of that partition
local grace_ms          = tonumber(ARGV[1])
local id_life_ms        = ARGV[2]
local sweep_interval_ms = tonumber(ARGV[3])
local FIRST, STRIDE     = 4, 13             -- ARGV: then 13 values for each message, named in `message_at`

local SKIP = 1048576
local IDEMPOTENCY_RECORD = '>I5I6I5I4' -- seq, sent_at, ttl, checksum; the epoch follows. 28 bytes; `records.py` parses it too
local call, format, args = redis.call, string.format, ARGV
local now = now_ms()
local sent_at = format('%d', now)
local rooms, order, records, answers, accepted = {}, {}, {}, {}, {}

-- prefix: of the partition's keys; checksum: of the content, 32 bits; reply_to, resends: seq or ''; untracked: '1' or '';
-- only: user ids by commas, '' everybody; record_key: key of the idempotency record
local function message_at(offset)
  local prefix, room_id, user, name, id, body, ttl_ms, checksum, reply_to, untracked, only, resends, record_key =
    unpack(args, offset, offset + STRIDE - 1)
  return {prefix = prefix, room_id = room_id, user = user, name = name, id = id, body = body, ttl_ms = tonumber(ttl_ms),
    checksum = tonumber(checksum), reply_to = reply_to, tracked = untracked == '', only = only, resends = resends,
    record_key = record_key}
end

local function room_of(message)
  local room = rooms[message.room_id]
  if room == nil then
    local key = message.prefix .. 'room:' .. message.room_id
    local epoch, top, top_life = unpack(call('HMGET', key, 'epoch', 'top', 'top_life'))
    room = epoch and {id = message.room_id, key = key, prefix = message.prefix, epoch = epoch, top = tonumber(top),
      skip = top_life ~= LIFE, cursors = {}, moved = {}, lines = {}} or false
    rooms[message.room_id] = room
  end
  return room
end

local function cursor_of(room, user)
  if room.cursors[user] == nil then
    room.cursors[user] = tonumber(call('ZSCORE', room.key .. ':delivered', user) or nil) or false
  end
  return room.cursors[user]
end

local function answer_of(epoch, seq, sent, ttl_ms)
  return epoch .. '|' .. format('%d|%d|%d', seq, sent, sent + ttl_ms)
end

local function repeated(record, checksum)
  local seq, sent, ttl_ms, first_checksum, rest = struct.unpack(IDEMPOTENCY_RECORD, record)
  return first_checksum == checksum and '=' .. answer_of(string.sub(record, rest), seq, sent, ttl_ms) or -3
end

local function accept(message)
  local room, reply_to = room_of(message), tonumber(message.reply_to)
  if not room then return -1 end
  if not cursor_of(room, message.user) then return -2 end
  if reply_to and (reply_to < 1 or reply_to > room.top) then return -4 end
  local seq = room.top + 1
  if room.skip then seq = seq + SKIP; room.skip = false end
  message.room, message.after, message.seq, message.expires_at = room, room.top, seq, now + message.ttl_ms
  room.top = seq
  records[message.record_key] = struct.pack(IDEMPOTENCY_RECORD, seq, now, message.ttl_ms, message.checksum) .. room.epoch
  accepted[#accepted + 1] = message
  if #room.lines == 0 then order[#order + 1] = room; room.lines[1] = 'M ' .. room.epoch end
  return answer_of(room.epoch, seq, now, message.ttl_ms)
end

local function set(key, field, value)
  if value ~= '' then call('HSET', key, field, value) end
end

local function write(message, room, seq, expires_at)
  local key, user = room.key .. ':msg:' .. seq, message.user
  call('HSET', key, 'id', message.id, 'sender', user, 'name', message.name, 'body', message.body, 'sent_at', sent_at, 'expires_at', expires_at)
  set(key, 'reply_to', message.reply_to)
  set(key, 'resends', message.resends)
  set(room.key .. ':only', seq, message.only)
  call('PEXPIREAT', key, format('%d', message.expires_at + grace_ms))
  call('ZADD', room.key .. ':live', seq, live_entry(seq, user, message.id, message.tracked))
  room.tracked = room.tracked or message.tracked
  call('ZADD', room.prefix .. 'expiring', expires_at, index_entry(room.id, seq))
  call('SET', message.record_key, records[message.record_key], 'PX', id_life_ms)
  -- Another cursor than seq-1 would skip messages that this sender does not have yet.
  if room.cursors[user] == message.seq - 1 then
    room.cursors[user] = message.seq
    room.moved[user] = seq
  end
end

local function frame_of(message, room, seq, expires_at)
  local reply_to, resends, after = message.reply_to, message.resends, message.after
  return '{"type":"message","room":"' .. room.id .. '","epoch":"' .. room.epoch .. '","seq":' .. seq
    .. ',"id":"' .. message.id .. '","from":{"id":' .. message.user .. ',"name":' .. cjson.encode(message.name)
    .. '},"body":' .. cjson.encode(message.body) .. ',"sent_at":' .. sent_at .. ',"expires_at":' .. expires_at
    .. (reply_to ~= '' and ',"reply_to":' .. reply_to or '') .. (resends ~= '' and ',"resends":' .. resends or '')
    .. (after ~= message.seq - 1 and ',"after":' .. format('%d', after) or '') .. '}'
end

for offset = FIRST, #args, STRIDE do
  local message = message_at(offset)
  local record = records[message.record_key] or call('GET', message.record_key)
  answers[#answers + 1] = record and repeated(record, message.checksum) or accept(message)
end
for _, room in ipairs(order) do call('HSET', room.key, 'top', format('%d', room.top), 'top_life', LIFE) end
for _, message in ipairs(accepted) do
  local room, seq, expires_at = message.room, format('%d', message.seq), format('%d', message.expires_at)
  write(message, room, seq, expires_at)
  local lines, only = room.lines, message.only
  lines[#lines + 1] = seq .. ' ' .. format('%d', message.after) .. ' ' .. message.user .. ' ' .. (only == '' and '-' or only)
  lines[#lines + 1] = frame_of(message, room, seq, expires_at)
end
for _, room in ipairs(order) do
  for user, cursor in pairs(room.moved) do call('ZADD', room.key .. ':delivered', 'XX', 'GT', cursor, user) end
  if room.tracked then call('ZADD', room.prefix .. 'unacked', 'NX', format('%d', now + sweep_interval_ms), room.id) end
  call('PUBLISH', room.key, table.concat(room.lines, '\n'))
end
count(first_prefix, now, 'accepted', #accepted)
return answers
