#!lua
-- Accept a batch of messages: number, store and index them, keep the answers for their ids, publish them. A repeated id gets its
-- first answer. All messages are checked before the first write, because a script has no rollback.
-- Returns for each message an answer 'epoch|seq|sent_at|expires_at', with '=' before it for a repeat, or a code:
--   -1 the room has no log, -2 not a member, -3 the id was used for other content, -4 reply_to is not a message
-- Uses clock, count
-- Uses entries: index_entry, live_entry
local first_prefix      = KEYS[1]           -- of the first message's partition; in a Cluster all messages are of that partition
local grace_ms          = tonumber(ARGV[1])
local id_life_ms        = ARGV[2]
local sweep_interval_ms = tonumber(ARGV[3])
local FIRST, STRIDE     = 4, 13             -- ARGV: then 13 values for each message, named in `fields_at`

-- In each life of the store the step is another one, so that lives after the same copy do not give the same seqs.
local SKIP = 1048576 + tonumber(string.sub(LIFE, 1, 5), 16)
local IDEMPOTENCY_RECORD = '>I5I6I5I4' -- seq, sent_at, ttl, checksum; the epoch follows. 28 bytes; `records.py` parses it too
local call, format, args = redis.call, string.format, ARGV
local now = now_ms()
local sent_at = format('%d', now)
local rooms, order, records, answers, accepted = {}, {}, {}, {}, {}

-- prefix, room id, user id, name, id, body, ttl (ms), checksum (of the content, 32 bits), reply_to (seq or ''), untracked ('1' or ''),
-- only (user ids by commas, '' everybody), resends (seq or ''), record key (of the idempotency record)
local function fields_at(offset) return unpack(args, offset, offset + STRIDE - 1) end

local function room_of(prefix, id)
  local room = rooms[id]
  if room == nil then
    local key = prefix .. 'room:' .. id
    local epoch, top, top_life = unpack(call('HMGET', key, 'epoch', 'top', 'top_life'))
    room = epoch and {id = id, key = key, prefix = prefix, epoch = epoch, top = tonumber(top), skip = top_life ~= LIFE,
      cursors = {}, moved = {}, lines = {}} or false
    rooms[id] = room
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

local function accept(offset)
  local prefix, room_id, user, _, _, _, ttl_ms, checksum, reply_to, _, _, _, record_key = fields_at(offset)
  ttl_ms, checksum, reply_to = tonumber(ttl_ms), tonumber(checksum), tonumber(reply_to)
  local record = records[record_key] or call('GET', record_key)
  local room = room_of(prefix, room_id)
  if not room then return -1 end
  -- A store that has lost the log of a room may still have the records of its messages, with seqs above the new log.
  if record and struct.unpack('>I5', record) <= room.top then return repeated(record, checksum) end
  if not cursor_of(room, user) then return -2 end
  local after = room.top
  if reply_to and (reply_to < 1 or reply_to > after) then return -4 end
  local seq = after + 1
  if room.skip then seq = seq + SKIP; room.skip, room.life_top, room.life_first = false, after, seq end
  room.top = seq
  records[record_key] = struct.pack(IDEMPOTENCY_RECORD, seq, now, ttl_ms, checksum) .. room.epoch
  accepted[#accepted + 1] = {offset = offset, room = room, seq = seq, after = after, expires_at = now + ttl_ms}
  if #room.lines == 0 then order[#order + 1] = room; room.lines[1] = 'M ' .. room.epoch end
  return answer_of(room.epoch, seq, now, ttl_ms)
end

local function set(key, field, value)
  if value ~= '' then call('HSET', key, field, value) end
end

for offset = FIRST, #args, STRIDE do answers[#answers + 1] = accept(offset) end
for _, room in ipairs(order) do
  call('HSET', room.key, 'top', format('%d', room.top), 'top_life', LIFE)
  if room.life_top then
    call('HSET', room.key, 'life_top', format('%d', room.life_top), 'life_first', format('%d', room.life_first))
  end
end
-- A message adds two lines to the room's publication: 'seq after sender recipients', and the frame.
for _, message in ipairs(accepted) do
  local _, _, user, name, id, body, _, _, reply_to, untracked, only, resends, record_key = fields_at(message.offset)
  local room, lines, tracked = message.room, message.room.lines, untracked == ''
  local seq, after, expires_at = format('%d', message.seq), format('%d', message.after), format('%d', message.expires_at)
  local key = room.key .. ':msg:' .. seq
  call('HSET', key, 'id', id, 'sender', user, 'name', name, 'body', body, 'sent_at', sent_at, 'expires_at', expires_at)
  set(key, 'reply_to', reply_to)
  set(key, 'resends', resends)
  set(room.key .. ':only', seq, only)
  call('PEXPIREAT', key, format('%d', message.expires_at + grace_ms))
  call('ZADD', room.key .. ':live', seq, live_entry(seq, user, id, tracked))
  room.tracked = room.tracked or tracked
  call('ZADD', room.prefix .. 'expiring', expires_at, index_entry(room.id, seq))
  call('SET', record_key, records[record_key], 'PX', id_life_ms)
  -- A cursor below seq - 1 stays: raising it would skip messages that this sender does not have yet.
  if room.cursors[user] == message.seq - 1 then
    room.cursors[user] = message.seq
    room.moved[user] = seq
  end
  lines[#lines + 1] = seq .. ' ' .. after .. ' ' .. user .. ' ' .. (only == '' and '-' or only)
  lines[#lines + 1] = '{"type":"message","room":"' .. room.id .. '","epoch":"' .. room.epoch .. '","seq":' .. seq
    .. ',"id":"' .. id .. '","from":{"id":' .. user .. ',"name":' .. cjson.encode(name) .. '},"body":' .. cjson.encode(body)
    .. ',"sent_at":' .. sent_at .. ',"expires_at":' .. expires_at
    .. (reply_to ~= '' and ',"reply_to":' .. reply_to or '') .. (resends ~= '' and ',"resends":' .. resends or '')
    .. (message.after ~= message.seq - 1 and ',"after":' .. after or '') .. '}'
end
for _, room in ipairs(order) do
  for user, cursor in pairs(room.moved) do call('ZADD', room.key .. ':delivered', 'XX', 'GT', cursor, user) end
  if room.tracked then call('ZADD', room.prefix .. 'unacked', 'NX', format('%d', now + sweep_interval_ms), room.id) end
  call('PUBLISH', room.key, table.concat(room.lines, '\n'))
end
count(first_prefix, now, 'accepted', #accepted)
return answers
