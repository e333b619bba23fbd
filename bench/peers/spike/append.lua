#!lua
-- Accept a batch: number, store and index each message, keep its id, publish one array for each room.
-- KEYS[1] prefix; ARGV, six for each message: room, user, name, id, body, lifetime (ms)
-- Returns 'seq|sent_at|expires_at' for each message; for a known id, its first answer.
local GRACE_MS, ID_LIFE_S, SWEEP_MS = 86400000, 86400, 60000
local prefix, call = KEYS[1], redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local answers, published = {}, {}

for at = 1, #ARGV, 6 do
  local room, user, name, id, body = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local sent_key = prefix .. 'sent:' .. room .. ':' .. user .. ':' .. id
  local answer = call('GET', sent_key)
  if not answer then
    local key, expires_at = prefix .. 'room:' .. room, now + tonumber(ARGV[at + 5])
    local seq = call('HINCRBY', key, 'top', 1)
    local message_key = key .. ':msg:' .. seq
    local sent_at_text, expires_at_text = string.format('%d', now), string.format('%d', expires_at)
    call('HSET', message_key, 'id', id, 'sender', user, 'name', name, 'body', body, 'sent_at', sent_at_text, 'expires_at', expires_at_text)
    call('PEXPIREAT', message_key, string.format('%d', expires_at + GRACE_MS))
    call('ZADD', key .. ':live', seq, seq .. '|' .. user .. '|' .. id)
    call('ZADD', prefix .. 'expiring', expires_at_text, room .. '|' .. seq)
    call('ZADD', prefix .. 'unacked', 'NX', string.format('%d', now + SWEEP_MS), room)
    answer = seq .. '|' .. sent_at_text .. '|' .. expires_at_text
    call('SET', sent_key, answer, 'EX', ID_LIFE_S)
    local frames = published[room] or {}
    published[room] = frames
    frames[#frames + 1] = '{"type":"message","room":"' .. room .. '","epoch":"e1","seq":' .. seq .. ',"id":"' .. id
      .. '","from":{"id":' .. user .. ',"name":' .. cjson.encode(name) .. '},"body":' .. cjson.encode(body)
      .. ',"sent_at":' .. sent_at_text .. ',"expires_at":' .. expires_at_text .. '}'
  end
  answers[#answers + 1] = answer
end
for room, frames in pairs(published) do call('PUBLISH', prefix .. 'room:' .. room, table.concat(frames, ',')) end
return answers
