#!lua flags=allow-oom
-- Make the next attempts of some members due now; the count of attempts does not change.
-- Returns the number of members with attempts
-- Uses clock
-- Uses entries: attempts_value, parse_attempts
local prefix     = KEYS[1] -- of the partition's keys
local room_id    = ARGV[1]
local FIRST_USER = 2       -- ARGV: then user ids

local attempts_key, now, due = prefix .. 'room:' .. room_id .. ':attempts', now_ms(), 0
for i = FIRST_USER, #ARGV do
  local user = ARGV[i]
  local n, first_at, next_at, reason = parse_attempts(redis.call('HGET', attempts_key, user))
  if n > 0 then
    redis.call('HSET', attempts_key, user, attempts_value(n, first_at, math.min(now, next_at), reason))
    due = due + 1
  end
end
return due
