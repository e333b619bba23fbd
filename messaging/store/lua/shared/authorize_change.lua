-- What edit, delete and extend have in common. `visible_from` ('' for no) and `moderates` as the scripts get them:
-- '' for no, '1' a member who moderates, 'staff' the site's, who need not be members.
-- Returns a code: -1 the room has no log, -2 not a member, -4 no such live message, -5 another's, -6 expired; or nil and the message.
local function authorize_change(key, user, epoch, seq, moderates, visible_from, now)
  local room = redis.call('HMGET', key, 'epoch', 'rev', 'rev_life')
  if not room[1] then return -1 end
  local joined = redis.call('ZSCORE', key .. ':joined', user)
  if not joined and moderates ~= 'staff' then return -2 end
  local entry = redis.call('ZRANGEBYSCORE', key .. ':live', seq, seq)[1]
  if not entry or (epoch ~= '' and epoch ~= room[1]) then return -4 end
  local sender, id = string.match(entry, '^%d+|(%d+)|([^|]*)')
  local only = redis.call('HGET', key .. ':only', seq)
  if sender ~= user and moderates == '' then
    local from = tonumber(visible_from) or tonumber(joined)
    local shown = tonumber(seq) > from and (not only or string.find(',' .. only .. ',', ',' .. user .. ',', 1, true))
    return shown and -5 or -4
  end
  local expires_at = redis.call('HGET', key .. ':msg:' .. seq, 'expires_at')
  if not expires_at or tonumber(expires_at) <= now then return -6 end
  -- A rev is never given twice either: the first change of a store's new life skips ahead.
  local rev = tonumber(room[2]) + (room[3] == LIFE and 1 or 1048577)
  return nil, {epoch = room[1], sender = sender, id = id, only = only or '-', expires_at = expires_at, rev = string.format('%d', rev)}
end
