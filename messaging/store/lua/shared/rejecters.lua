-- Return which of some members rejected a message: {user = attempts}. The rows of one seq may be as many as the members; where they
-- are, a member's own row is asked for by name, one name for each count of attempts.
-- Uses entries
local function rejecters(key, seq, users, max_attempts)
  local attempts_of, unknown, outcome = {}, users, key .. ':outcome'
  if redis.call('ZCOUNT', outcome, seq, seq) <= 2 * #users then
    for _, row in ipairs(redis.call('ZRANGEBYSCORE', outcome, seq, seq)) do
      local user, reason, attempts = parse_outcome(row)
      if reason == 'client_rejected' then attempts_of[user] = attempts end
    end
    return attempts_of
  end
  for attempts = 0, max_attempts do
    if #unknown == 0 then break end
    local rows, others = {}, {}
    for i, user in ipairs(unknown) do rows[i] = outcome_row(seq, user, 'client_rejected', attempts) end
    for i, score in ipairs(redis.call('ZMSCORE', outcome, unpack(rows))) do
      if score then attempts_of[unknown[i]] = string.format('%d', attempts) else others[#others + 1] = unknown[i] end
    end
    unknown = others
  end
  return attempts_of
end
