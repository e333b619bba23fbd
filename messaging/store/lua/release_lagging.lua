#!lua flags=allow-oom
-- Set the time of the next sweep of claimed rooms; a room that another caller has claimed since is not changed.
-- Returns the number of changed rooms
-- Uses clock
local prefix        = KEYS[1]           -- of the partition's keys
local interval_ms   = tonumber(ARGV[1]) -- until the next sweep
local FIRST, STRIDE = 2, 2              -- ARGV: then 2 values for each room: room id, score claimed

local unacked, next_sweep, released = prefix .. 'unacked', now_ms() + interval_ms, 0
for offset = FIRST, #ARGV, STRIDE do
  local room_id, claimed_score = ARGV[offset], tonumber(ARGV[offset + 1])
  local score = redis.call('ZSCORE', unacked, room_id)
  if score and tonumber(score) == claimed_score then
    redis.call('ZADD', unacked, string.format('%.0f', next_sweep), room_id)
    released = released + 1
  end
end
return released
