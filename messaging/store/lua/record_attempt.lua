#!lua flags=allow-oom
-- Count one push to a connected laggard, if nobody else counted it first: compare-and-set on n.
-- KEYS[1] partition prefix; ARGV: room, user, n expected (0 none), wait until the next (ms), most attempts
-- Returns 1 when this caller may push, else 0
local key, user, n = KEYS[1] .. 'room:' .. ARGV[1], ARGV[2], tonumber(ARGV[3])
if not redis.call('ZSCORE', key .. ':delivered', user) then return 0 end
local before = redis.call('HGET', key .. ':attempts', user)
local counted, first_at = 0, nil
if before then
  counted, first_at = string.match(before, '^(%d+)|(%d+)|')
end
if tonumber(counted) ~= n then return 0 end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local given_up = n + 1 >= tonumber(ARGV[5])
redis.call('HSET', key .. ':attempts', user, string.format('%d|%s|%.0f|%s', n + 1, first_at or string.format('%.0f', now),
  now + tonumber(ARGV[4]), given_up and 'no_ack' or 'waiting'))
count(KEYS[1], now, 'retried', 1)
if given_up then count(KEYS[1], now, 'gave_up', 1) end
return 1
