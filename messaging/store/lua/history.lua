#!lua flags=no-writes
-- Read the newest messages below `before` that a member may see, newest first.
-- KEYS[1] partition prefix; ARGV: room, user, before, limit, most (bytes of bodies), visible from (seq: all after it, '' joining)
-- Returns {epoch, more (0|1), messages as in read_after, before for the next call}
--   or a code: -1 the room has no log, -2 not a member
local FIELDS = {'id', 'sender', 'name', 'body', 'sent_at', 'expires_at', 'reply_to', 'edited_at', 'resends'}
local LOOK = 500
local key, user = KEYS[1] .. 'room:' .. ARGV[1], ARGV[2]
local epoch = redis.call('HGET', key, 'epoch')
if not epoch then return -1 end
local joined = redis.call('ZSCORE', key .. ':joined', user)
if not joined then return -2 end

local limit, most = tonumber(ARGV[4]), tonumber(ARGV[5])
local from = ARGV[6] == '' and joined or ARGV[6]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local only_some = redis.call('EXISTS', key .. ':only') == 1
local entries = redis.call('ZREVRANGEBYSCORE', key .. ':live', '(' .. ARGV[3], '(' .. from, 'LIMIT', 0, LOOK + 1)
local messages, bytes, looked, next_before = {}, 0, 0, tonumber(ARGV[3])
for _, entry in ipairs(entries) do
  if #messages == limit or bytes > most or looked == LOOK then break end
  local seq, sender = string.match(entry, '^(%d+)|(%d+)|')
  local only = only_some and sender ~= user and redis.call('HGET', key .. ':only', seq)
  bytes = bytes + (only and #only / 8 or 0)
  if not only or string.find(',' .. only .. ',', ',' .. user .. ',', 1, true) then
    local fields = redis.call('HMGET', key .. ':msg:' .. seq, unpack(FIELDS))
    if fields[1] and tonumber(fields[6]) > now then
      messages[#messages + 1] = {tonumber(seq), fields}
      bytes = bytes + #fields[4] + 200
    end
  end
  looked = looked + 1
  next_before = tonumber(seq)
end
return {epoch, looked < #entries and 1 or 0, messages, next_before}
