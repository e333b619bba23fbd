#!lua
-- Accept a batch of messages: number, store, index, remember the id, fan out. The same id again gets the first answer.
-- Everything is checked before the first write, for a script has no rollback.
-- KEYS[1] partition prefix of the first message; in a Cluster all messages of a call are of that partition
-- ARGV: grace (ms), life of an id (ms), sweep interval (ms); then for each message, 13 values:
--   partition prefix, room, user, name, id, body, ttl (ms), checksum of the content (32 bits), reply_to (seq or ''), untracked
--   ('1' or ''), only (user ids by commas, '' everybody), resends (seq or ''), the key that remembers the id
-- Returns for each an answer 'epoch|seq|sent_at|expires_at', with '=' before it where it is a repeat, or a code:
--   -1 the room has no log, -2 not a member, -3 the id was used for other content, -4 reply_to is no message
local STRIDE, SKIP = 13, 1048576
local REMEMBERED = '>I5I6I5I4' -- seq, sent_at, ttl, checksum; the epoch follows. 28 bytes; `records.Remembered` reads them too
local grace, id_life, sweep = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local call, format = redis.call, string.format
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local sent_at = format('%d', now)
local rooms, order, seen, answers, accepted = {}, {}, {}, {}, {}

local function room_of(prefix, id)
  local room = rooms[id]
  if room == nil then
    local key = prefix .. 'room:' .. id
    local fields = call('HMGET', key, 'epoch', 'top', 'top_life')
    room = fields[1] and {id = id, key = key, prefix = prefix, epoch = fields[1], top = tonumber(fields[2]),
      skip = fields[3] ~= LIFE, cursors = {}, moved = {}, lines = {}} or false
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

local function answer_of(epoch, seq, sent, ttl)
  return epoch .. '|' .. format('%d|%d|%d', seq, sent, sent + ttl)
end

local function repeated(remembered, checksum)
  local seq, sent, ttl, first, rest = struct.unpack(REMEMBERED, remembered)
  return first == checksum and '=' .. answer_of(string.sub(remembered, rest), seq, sent, ttl) or -3
end

for at = 4, #ARGV, STRIDE do
  local prefix, id, user, reply_to = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 8])
  local ttl, checksum = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local sent_key = ARGV[at + 12]
  local first = seen[sent_key] or call('GET', sent_key)
  local answer
  if first then
    answer = repeated(first, checksum)
  else
    local room = room_of(prefix, id)
    if not room then answer = -1
    elseif not cursor_of(room, user) then answer = -2
    elseif reply_to and (reply_to < 1 or reply_to > room.top) then answer = -4
    else
      local after = room.top
      local seq = after + 1
      if room.skip then seq = seq + SKIP; room.skip = false end
      room.top = seq
      answer = answer_of(room.epoch, seq, now, ttl)
      seen[sent_key] = struct.pack(REMEMBERED, seq, now, ttl, checksum) .. room.epoch
      accepted[#accepted + 1] = {at = at, room = room, seq = seq, after = after, expires_at = now + ttl, sent_key = sent_key}
      if #room.lines == 0 then order[#order + 1] = room; room.lines[1] = 'M ' .. room.epoch end
    end
  end
  answers[#answers + 1] = answer
end

local function field(key, name, value)
  if value ~= '' then call('HSET', key, name, value) end
end

for _, room in ipairs(order) do call('HSET', room.key, 'top', format('%d', room.top), 'top_life', LIFE) end
for _, message in ipairs(accepted) do
  local at, room, seq, after = message.at, message.room, message.seq, message.after
  local user, name, id, body, reply_to = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 8]
  local untracked, only, resends = ARGV[at + 9] ~= '', ARGV[at + 10], ARGV[at + 11]
  local seq_text, expires_at = format('%d', seq), format('%d', message.expires_at)
  local message_key = room.key .. ':msg:' .. seq_text
  call('HSET', message_key, 'id', id, 'sender', user, 'name', name, 'body', body, 'sent_at', sent_at, 'expires_at', expires_at)
  field(message_key, 'reply_to', reply_to)
  field(message_key, 'resends', resends)
  field(room.key .. ':only', seq_text, only)
  call('PEXPIREAT', message_key, format('%d', message.expires_at + grace))
  call('ZADD', room.key .. ':live', seq_text, seq_text .. '|' .. user .. '|' .. id .. (untracked and '|u' or ''))
  room.tracked = room.tracked or not untracked
  call('ZADD', room.prefix .. 'expiring', expires_at, room.id .. '|' .. seq_text)
  call('SET', message.sent_key, seen[message.sent_key], 'PX', id_life)
  -- Anything else than seq-1 would skip what this sender has not got yet.
  if room.cursors[user] == seq - 1 then
    room.cursors[user] = seq
    room.moved[user] = seq_text
  end
  local lines = room.lines
  lines[#lines + 1] = seq_text .. ' ' .. format('%d', after) .. ' ' .. user .. ' ' .. (only == '' and '-' or only)
  lines[#lines + 1] = '{"type":"message","room":"' .. room.id .. '","epoch":"' .. room.epoch .. '","seq":' .. seq_text
    .. ',"id":"' .. id .. '","from":{"id":' .. user .. ',"name":' .. cjson.encode(name) .. '},"body":' .. cjson.encode(body)
    .. ',"sent_at":' .. sent_at .. ',"expires_at":' .. expires_at
    .. (reply_to ~= '' and ',"reply_to":' .. reply_to or '') .. (resends ~= '' and ',"resends":' .. resends or '')
    .. (after ~= seq - 1 and ',"after":' .. format('%d', after) or '') .. '}'
end
for _, room in ipairs(order) do
  for user, cursor in pairs(room.moved) do call('ZADD', room.key .. ':delivered', 'XX', 'GT', cursor, user) end
  if room.tracked then call('ZADD', room.prefix .. 'unacked', 'NX', format('%d', now + sweep), room.id) end
  call('PUBLISH', room.key, table.concat(room.lines, '\n'))
end
count(KEYS[1], now, 'accepted', #accepted)
return answers
