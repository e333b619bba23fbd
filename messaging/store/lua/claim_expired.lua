#!lua flags=allow-oom
-- Claim due rows of the expiry index. A claim is a lease: after a crash the rows are due again.
-- Returns {rows read but not claimed, more rows after them (0|1), room|seq, time it was due, score claimed, ...}. The same token gets
-- the same rows.
-- Uses clock
-- Uses entries: index_entry
local prefix   = KEYS[1]           -- of the partition's keys
local token    = ARGV[1]           -- of the claim
local limit    = tonumber(ARGV[2]) -- rows
local lease_ms = tonumber(ARGV[3])
local delay_ms = tonumber(ARGV[4]) -- after the expiry: acknowledgements may arrive late
local room_id  = ARGV[5]           -- '' all rooms
local skip     = tonumber(ARGV[6]) -- due rows that an earlier call has read

local LOOK_ROWS = 500
local expiring, claim_key = prefix .. 'expiring', prefix .. 'claim:' .. token
local answered = redis.call('GET', claim_key)
if answered then return cjson.decode(answered) end
local now = now_ms()
local look = room_id == '' and limit or LOOK_ROWS
local rows = redis.call('ZRANGEBYSCORE', expiring, '-inf', now - delay_ms, 'WITHSCORES', 'LIMIT', skip, look)
local claimed_until, wanted = string.format('%.0f', now + lease_ms), index_entry(room_id, '')
local answer = {0, #rows == 2 * look and 1 or 0}
for i = 1, #rows, 2 do
  local matches = room_id == '' or string.sub(rows[i], 1, #wanted) == wanted
  if matches and #answer < 2 + 3 * limit then
    redis.call('ZADD', expiring, claimed_until, rows[i])
    for _, value in ipairs({rows[i], rows[i + 1], claimed_until}) do answer[#answer + 1] = value end
  else
    answer[1] = answer[1] + 1
  end
end
if #answer > 2 then redis.call('SET', claim_key, cjson.encode(answer), 'PX', lease_ms) end
return answer
