-- Say which of some members rejected a message: {user = attempts}. The rows of one seq may be as many as members; where they are,
-- a member's own is asked for by name, one for each count of attempts.
local function rejecters(key, seq, users, most)
  local found, asked, outcome = {}, users, key .. ':outcome'
  if redis.call('ZCOUNT', outcome, seq, seq) <= 2 * #users then
    for _, row in ipairs(redis.call('ZRANGEBYSCORE', outcome, seq, seq)) do
      local user, attempts = string.match(row, '^%d+|(%d+)|client_rejected|(%d+)$')
      if user then found[user] = attempts end
    end
    return found
  end
  for attempts = 0, most do
    if #asked == 0 then break end
    local names, others = {}, {}
    for i, user in ipairs(asked) do names[i] = seq .. '|' .. user .. '|client_rejected|' .. attempts end
    for i, score in ipairs(redis.call('ZMSCORE', outcome, unpack(names))) do
      if score then found[asked[i]] = string.format('%d', attempts) else others[#others + 1] = asked[i] end
    end
    asked = others
  end
  return found
end
