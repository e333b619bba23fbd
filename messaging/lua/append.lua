#!lua
-- Accept a batch of messages of one partition: number, store, index, remember the id, fan out. The same id again gets the
-- first answer. Everything is checked before the first write, for a script has no rollback.
-- KEYS[1] partition prefix
-- ARGV: grace (ms), life of an id (ms), sweep interval (ms); then for each message, 9 values:
--   room, user, name, id, body, ttl (ms), content hash, reply_to (seq or ''), untracked ('1' or '')
-- Returns for each an answer 'epoch|seq|sent_at|expires_at|hash', with '=' before it where it is a repeat, or a code:
--   -1 the room has no log, -2 not a member, -3 the id was used for other content, -4 reply_to is no message
local STRIDE, SKIP = 9, 1048576
local prefix, grace, id_life, sweep = KEYS[1], tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local rooms, order, seen, answers, accepted = {}, {}, {}, {}, {}

local function room_of(id)
  local room = rooms[id]
  if room == nil then
    local fields = redis.call('HMGET', prefix .. 'room:' .. id, 'epoch', 'top', 'top_life')
    room = fields[1] and {id = id, key = prefix .. 'room:' .. id, epoch = fields[1], top = tonumber(fields[2]),
      skip = fields[3] ~= LIFE, cursors = {}, lines = {}} or false
    rooms[id] = room
  end
  return room
end

local function cursor_of(room, user)
  if room.cursors[user] == nil then room.cursors[user] = redis.call('ZSCORE', room.key .. ':delivered', user) or false end
  return room.cursors[user]
end

for at = 4, #ARGV, STRIDE do
  local id, user, hash, reply_to = ARGV[at], ARGV[at + 1], ARGV[at + 6], tonumber(ARGV[at + 7])
  local sent_key = prefix .. 'sent:' .. id .. ':' .. user .. ':' .. ARGV[at + 3]
  local first = seen[sent_key] or redis.call('GET', sent_key)
  local answer
  if first then
    answer = string.match(first, '[^|]*$') == hash and '=' .. first or -3
  else
    local room = room_of(id)
    if not room then answer = -1
    elseif not cursor_of(room, user) then answer = -2
    elseif reply_to and (reply_to < 1 or reply_to > room.top) then answer = -4
    else
      local after, ttl = room.top, tonumber(ARGV[at + 5])
      local seq = after + 1
      if room.skip then seq = seq + SKIP; room.skip = false end
      room.top = seq
      answer = string.format('%s|%.0f|%.0f|%.0f|%s', room.epoch, seq, now, now + ttl, hash)
      seen[sent_key] = answer
      accepted[#accepted + 1] = {at = at, room = room, seq = seq, after = after, expires_at = now + ttl, sent_key = sent_key, answer = answer}
      if #room.lines == 0 then order[#order + 1] = room; room.lines[1] = 'M ' .. room.epoch end
    end
  end
  answers[#answers + 1] = answer
end

for _, room in ipairs(order) do redis.call('HSET', room.key, 'top', room.top, 'top_life', LIFE) end
for _, message in ipairs(accepted) do
  local at, room, seq, after = message.at, message.room, message.seq, message.after
  local user, name, id, body, reply_to = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 7]
  local seq_text = string.format('%.0f', seq)
  local expires_at = string.format('%.0f', message.expires_at)
  local sent_at = string.format('%.0f', now)
  local message_key = room.key .. ':msg:' .. seq_text
  if reply_to == '' then
    redis.call('HSET', message_key, 'id', id, 'sender', user, 'name', name, 'body', body, 'sent_at', sent_at, 'expires_at', expires_at)
  else
    redis.call('HSET', message_key, 'id', id, 'sender', user, 'name', name, 'body', body, 'sent_at', sent_at, 'expires_at', expires_at, 'reply_to', reply_to)
  end
  redis.call('PEXPIREAT', message_key, string.format('%.0f', message.expires_at + grace))
  redis.call('ZADD', room.key .. ':live', seq_text, seq_text .. '|' .. user .. '|' .. id)
  redis.call('ZADD', prefix .. 'expiring', expires_at, room.id .. '|' .. seq_text)
  redis.call('SET', message.sent_key, message.answer, 'PX', id_life)
  -- Anything else than seq-1 would skip what this sender has not got yet.
  if tonumber(room.cursors[user]) == seq - 1 then
    redis.call('ZADD', room.key .. ':delivered', 'XX', 'GT', seq_text, user)
    room.cursors[user] = seq
  end
  local frame = '{"type":"message","room":"' .. room.id .. '","epoch":"' .. room.epoch .. '","seq":' .. seq_text .. ',"id":"' .. id
    .. '","from":{"id":' .. user .. ',"name":' .. cjson.encode(name) .. '},"body":' .. cjson.encode(body)
    .. ',"sent_at":' .. sent_at .. ',"expires_at":' .. expires_at
    .. (reply_to ~= '' and ',"reply_to":' .. reply_to or '')
    .. (after ~= seq - 1 and ',"after":' .. string.format('%.0f', after) or '') .. '}'
  room.lines[#room.lines + 1] = seq_text .. ' ' .. string.format('%.0f', after) .. ' ' .. user .. ' -'
  room.lines[#room.lines + 1] = frame
end
for _, room in ipairs(order) do
  redis.call('ZADD', prefix .. 'unacked', 'NX', now + sweep, room.id)
  redis.call('PUBLISH', room.key, table.concat(room.lines, '\n'))
end
return answers
