#!lua flags=allow-oom
-- Count one push to a lagging member, unless another process counted it first: compare-and-set on the count.
-- Returns 1 if this caller may push, otherwise 0
-- Uses clock, count
-- Uses entries: attempts_value, parse_attempts
local prefix       = KEYS[1]           -- of the partition's keys
local room_id      = ARGV[1]
local user         = ARGV[2]           -- user id
local expected     = tonumber(ARGV[3]) -- attempts counted so far
local wait_ms      = tonumber(ARGV[4]) -- until the next attempt
local max_attempts = tonumber(ARGV[5])

local key = prefix .. 'room:' .. room_id
if not redis.call('ZSCORE', key .. ':delivered', user) then return 0 end
local n, first_at = parse_attempts(redis.call('HGET', key .. ':attempts', user))
if n ~= expected then return 0 end

local now = now_ms()
local is_last = n + 1 >= max_attempts
local value = attempts_value(n + 1, first_at or now, now + wait_ms, is_last and 'no_ack' or 'waiting')
redis.call('HSET', key .. ':attempts', user, value)
count(prefix, now, 'retried', 1)
if is_last then count(prefix, now, 'gave_up', 1) end
return 1
