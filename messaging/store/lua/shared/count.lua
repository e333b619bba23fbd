-- Count events in their partition: by the minute and the hour for 48 hours, by the day for 90 days. The minutes of an hour share a
-- Hash, and so do 30 days, so that 64 partitions have at most a few thousand small keys.

-- Count only by the day: for the totals of messages, which belong to the day on which they were accepted.
local function count_day(prefix, at_ms, event, n)
  local day = math.floor(at_ms / 86400000)
  local key = prefix .. 'counts:days:' .. math.floor(day / 30)
  if redis.call('HINCRBY', key, day .. '|' .. event, n) == n then redis.call('EXPIRE', key, 121 * 86400) end
end

local function count(prefix, at_ms, event, n)
  if n == 0 then return end
  local minute = math.floor(at_ms / 60000)
  local key = prefix .. 'counts:hour:' .. math.floor(minute / 60)
  if redis.call('HINCRBY', key, minute .. '|' .. event, n) == n then redis.call('EXPIRE', key, 49 * 3600) end
  redis.call('HINCRBY', key, 'all|' .. event, n)
  count_day(prefix, at_ms, event, n)
end
