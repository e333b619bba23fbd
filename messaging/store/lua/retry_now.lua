#!lua flags=allow-oom
-- Let the next attempt of some laggards be due at once; how many were made stays counted.
-- KEYS[1] partition prefix; ARGV: room, then user ids
-- Returns how many had an attempt counted
local attempts = KEYS[1] .. 'room:' .. ARGV[1] .. ':attempts'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local hastened = 0
for i = 2, #ARGV do
  local before = redis.call('HGET', attempts, ARGV[i])
  if before then
    local made, first_at, next_at, state = string.match(before, '^(%d+)|(%d+)|(%d+)|(.*)$')
    redis.call('HSET', attempts, ARGV[i], string.format('%s|%s|%.0f|%s', made, first_at, math.min(now, tonumber(next_at)), state))
    hastened = hastened + 1
  end
end
return hastened
