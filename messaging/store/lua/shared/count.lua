-- Count what a script did, where it did it: by the minute and the hour for 48 hours, by the day for 90 days. An hour's minutes
-- share a Hash, and 30 days do, so that 64 partitions keep a few thousand small keys at most. `now` in epoch ms.

-- By the day alone: what became of messages stands under the day on which they were accepted.
local function count_day(prefix, at, what, n)
  local day = math.floor(at / 86400000)
  local key = prefix .. 'counts:days:' .. math.floor(day / 30)
  if redis.call('HINCRBY', key, day .. '|' .. what, n) == n then redis.call('EXPIRE', key, 121 * 86400) end
end

local function count(prefix, now, what, n)
  if n == 0 then return end
  local minute = math.floor(now / 60000)
  local key = prefix .. 'counts:hour:' .. math.floor(minute / 60)
  if redis.call('HINCRBY', key, minute .. '|' .. what, n) == n then redis.call('EXPIRE', key, 49 * 3600) end
  redis.call('HINCRBY', key, 'all|' .. what, n)
  count_day(prefix, now, what, n)
end
