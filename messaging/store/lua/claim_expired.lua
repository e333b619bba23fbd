#!lua flags=allow-oom
-- Take rows of the expiry index that are due: each is a lease, so that a crash makes it due again.
-- KEYS[1] partition prefix; ARGV: token, most rows, lease (ms), delay (ms): acks may be in flight, one room or '' for all, how many
--   due rows of other rooms to pass over
-- Returns {rows looked at and passed over, more behind them (0|1), room|seq, when it was due, score claimed, ...}; the same token
-- gets the same rows
local LOOK = 500
local prefix, token, most, lease = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answered = redis.call('GET', prefix .. 'claim:' .. token)
if answered then return cjson.decode(answered) end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local look = ARGV[5] == '' and most or LOOK
local rows = redis.call('ZRANGEBYSCORE', prefix .. 'expiring', '-inf', now - tonumber(ARGV[4]), 'WITHSCORES', 'LIMIT', tonumber(ARGV[6]), look)
local due, wanted = string.format('%.0f', now + lease), ARGV[5] .. '|'
local answer = {0, #rows == 2 * look and 1 or 0}
for i = 1, #rows, 2 do
  local mine = ARGV[5] == '' or string.sub(rows[i], 1, #wanted) == wanted
  if mine and #answer < 2 + 3 * most then
    redis.call('ZADD', prefix .. 'expiring', due, rows[i])
    for _, value in ipairs({rows[i], rows[i + 1], due}) do answer[#answer + 1] = value end
  else
    answer[1] = answer[1] + 1
  end
end
if #answer > 2 then redis.call('SET', prefix .. 'claim:' .. token, cjson.encode(answer), 'PX', lease) end
return answer
