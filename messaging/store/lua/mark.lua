#!lua flags=allow-oom
-- Write the mark of a partition. A worker that was stopped for a while does not lower it.
-- Uses clock
local prefix = KEYS[1] -- of the partition's keys
local number = ARGV[1]
local life   = ARGV[2] -- of the store, '' if its log is not rewritten yet

local key = prefix .. 'mark'
if tonumber(redis.call('HGET', key, 'number') or 0) < tonumber(number) then
  redis.call('HSET', key, 'number', number, 'at', string.format('%.0f', now_ms()), 'life', life)
end
return 1
