#!lua flags=allow-oom
-- Give claimed rooms their next look; one that somebody else has claimed since is left alone.
-- KEYS[1] partition prefix; ARGV: interval (ms), then room, score claimed, ...
-- Returns how many were still this claim's.
local clock = redis.call('TIME')
local next_look = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[1])
local settled = 0
for i = 2, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1] .. 'unacked', ARGV[i])
  if score and tonumber(score) == tonumber(ARGV[i + 1]) then
    redis.call('ZADD', KEYS[1] .. 'unacked', string.format('%.0f', next_look), ARGV[i])
    settled = settled + 1
  end
end
return settled
