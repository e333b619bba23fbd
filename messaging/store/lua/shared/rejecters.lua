-- Return the users, of those given, who rejected a message: {user = attempts}. A message may have as many rows as the room has members.
-- If it has more than twice as many as users are given, each user's row is looked up, once for every possible number of attempts.
-- Uses entries: outcome_row, parse_outcome
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
