-- Say whether a member rejected a message. The rows of one seq may be as many as members, his are at most one for each count
-- of attempts: those are asked for by name.
local function rejected(key, seq, user, most)
  local rows = {}
  for attempts = 0, most do rows[attempts + 1] = seq .. '|' .. user .. '|client_rejected|' .. attempts end
  for _, score in ipairs(redis.call('ZMSCORE', key .. ':outcome', unpack(rows))) do
    if score then return true end
  end
  return false
end
