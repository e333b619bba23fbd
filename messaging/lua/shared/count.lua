-- Count what a script did, where it did it: by the minute for 48 hours and by the day for 90 days. An hour's minutes share a
-- Hash, and 30 days do, so that 64 partitions keep a few thousand small keys at most. `now` in epoch ms.
local function count(prefix, now, what, n)
  if n == 0 then return end
  local minute = math.floor(now / 60000)
  local day = math.floor(minute / 1440)
  local hour_key = prefix .. 'counts:hour:' .. math.floor(minute / 60)
  if redis.call('HINCRBY', hour_key, minute .. '|' .. what, n) == n then redis.call('EXPIRE', hour_key, 49 * 3600) end
  local days_key = prefix .. 'counts:days:' .. math.floor(day / 30)
  if redis.call('HINCRBY', days_key, day .. '|' .. what, n) == n then redis.call('EXPIRE', days_key, 121 * 86400) end
end
