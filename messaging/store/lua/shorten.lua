#!lua
-- Let a room's live messages end at most a ttl after they were sent, at once where that is over. Screens that do not hear of it show
-- a message until its former end: `shown_until` keeps the change known that long.
-- KEYS[1] partition prefix; ARGV: room, ttl (ms), after which seq, most messages, grace (ms), count only ('1' or '')
-- Returns {looked at, shortened, ended, last seq looked at}, or -1: the room has no log
local prefix, room, ttl, grace = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local key = prefix .. 'room:' .. room
local state = redis.call('HMGET', key, 'epoch', 'rev', 'rev_life')
if not state[1] then return -1 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local shortened, ended, last = 0, 0, ARGV[3]

local function shorten(entry, seq, fields, until_ms)
  local sender, id = string.match(entry, '^%d+|(%d+)|([^|]*)')
  local expires_at = string.format('%d', until_ms)
  local shown_until = math.max(tonumber(fields[2]), tonumber(fields[3] or 0))
  redis.call('HSET', key .. ':msg:' .. seq, 'expires_at', expires_at, 'shown_until', string.format('%d', shown_until))
  redis.call('PEXPIREAT', key .. ':msg:' .. seq, string.format('%d', until_ms + grace))
  redis.call('ZADD', prefix .. 'expiring', 'XX', expires_at, room .. '|' .. seq)
  local rev = tonumber(state[2]) + (state[3] == LIFE and 1 or 1048577)
  state[2], state[3] = rev, LIFE
  local message = {epoch = state[1], rev = string.format('%d', rev), sender = sender, only = redis.call('HGET', key .. ':only', seq) or '-'}
  publish_change(key, room, seq, message, 'edited', ',"expires_at":' .. expires_at)
end

local entries = redis.call('ZRANGEBYSCORE', key .. ':live', '(' .. ARGV[3], '+inf', 'LIMIT', 0, tonumber(ARGV[4]))
for _, entry in ipairs(entries) do
  local seq = string.match(entry, '^%d+')
  local fields = redis.call('HMGET', key .. ':msg:' .. seq, 'sent_at', 'expires_at', 'shown_until')
  local until_ms = fields[1] and math.max(now, tonumber(fields[1]) + ttl)
  if fields[1] and tonumber(fields[2]) > now and until_ms < tonumber(fields[2]) then
    shortened = shortened + 1
    if until_ms == now then ended = ended + 1 end
    if ARGV[6] == '' then shorten(entry, seq, fields, until_ms) end
  end
  last = seq
end
return {#entries, shortened, ended, last}
