#!lua
-- Limit the life of a room's live messages to a TTL after they were sent; older messages end now. A screen that is offline shows a
-- message until its former end (`shown_until`), so the change is kept until then.
-- Returns {messages read, shortened, ended, last seq read}, or -1: the room has no log
-- Uses clock, publish_change
-- Uses entries: index_entry, sender_and_id, seq_of
local prefix     = KEYS[1]           -- of the partition's keys
local room_id    = ARGV[1]
local ttl_ms     = tonumber(ARGV[2])
local after      = ARGV[3]           -- seq
local limit      = tonumber(ARGV[4]) -- messages
local grace_ms   = tonumber(ARGV[5])
local count_only = ARGV[6] ~= ''     -- '1' or ''

local key = prefix .. 'room:' .. room_id
local epoch, rev, rev_life = unpack(redis.call('HMGET', key, 'epoch', 'rev', 'rev_life'))
if not epoch then return -1 end
local now, shortened, ended, last = now_ms(), 0, 0, after

local function shorten(entry, seq, former_end, shown_until, expires_ms)
  local message_key, sender = key .. ':msg:' .. seq, sender_and_id(entry)
  local expires_at = string.format('%d', expires_ms)
  shown_until = math.max(tonumber(former_end), tonumber(shown_until or 0))
  redis.call('HSET', message_key, 'expires_at', expires_at, 'shown_until', string.format('%d', shown_until))
  redis.call('PEXPIREAT', message_key, string.format('%d', expires_ms + grace_ms))
  redis.call('ZADD', prefix .. 'expiring', 'XX', expires_at, index_entry(room_id, seq))
  rev, rev_life = next_rev(rev, rev_life), LIFE
  local message = {epoch = epoch, rev = rev, sender = sender, only = redis.call('HGET', key .. ':only', seq) or '-'}
  publish_change(key, room_id, seq, message, 'edited', ',"expires_at":' .. expires_at)
end

local entries = redis.call('ZRANGEBYSCORE', key .. ':live', '(' .. after, '+inf', 'LIMIT', 0, limit)
for _, entry in ipairs(entries) do
  local seq = seq_of(entry)
  local sent_at, expires_at, shown_until = unpack(redis.call('HMGET', key .. ':msg:' .. seq, 'sent_at', 'expires_at', 'shown_until'))
  local expires_ms = sent_at and math.max(now, tonumber(sent_at) + ttl_ms)
  if sent_at and tonumber(expires_at) > now and expires_ms < tonumber(expires_at) then
    shortened = shortened + 1
    if expires_ms == now then ended = ended + 1 end
    if not count_only then shorten(entry, seq, expires_at, shown_until, expires_ms) end
  end
  last = seq
end
return {#entries, shortened, ended, last}
