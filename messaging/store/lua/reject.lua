#!lua flags=allow-oom
-- Note that a member's client cannot show a live message he owes: an outcome, whatever his cursor. Idempotent.
-- KEYS[1] partition prefix; ARGV: room, user, epoch, seq, most attempts
-- Returns 1 when it is noted, 0 when it was or there is nothing to note
local prefix, user, seq, most = KEYS[1], ARGV[2], ARGV[4], tonumber(ARGV[5])
local key = prefix .. 'room:' .. ARGV[1]
if redis.call('HGET', key, 'epoch') ~= ARGV[3] then return 0 end
local entry = redis.call('ZRANGEBYSCORE', key .. ':live', seq, seq)[1]
if not entry or string.sub(entry, -2) == '|u' or string.match(entry, '^%d+|(%d+)|') == user then return 0 end
local joined = redis.call('ZSCORE', key .. ':joined', user)
if not joined or tonumber(joined) >= tonumber(seq) then return 0 end
local only = redis.call('HGET', key .. ':only', seq)
if only and not string.find(',' .. only .. ',', ',' .. user .. ',', 1, true) then return 0 end
if rejecters(key, seq, {user}, most)[user] then return 0 end

local clock = redis.call('TIME')
local attempts = tonumber(string.match(redis.call('HGET', key .. ':attempts', user) or '', '^%d+') or 0)
redis.call('ZADD', key .. ':outcome', seq, string.format('%s|%s|client_rejected|%d', seq, user, math.min(attempts, most)))
count(prefix, clock[1] * 1000 + math.floor(clock[2] / 1000), 'rejected', 1)
redis.call('PUBLISH', key, string.format('A %.0f', seq - 1))
return 1
