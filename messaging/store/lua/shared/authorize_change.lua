-- Check whether a user may change a live message, for edit, delete and extend. `moderates` is '1' for a moderator, 'staff' for staff,
-- who need not be members, otherwise ''. `visible_from` is a seq, or '' for the user's joining. A message that is hidden from a user is
-- no message for them, even if they moderate the room.
-- Return a code: -1 the room has no log, -2 not a member, -4 no such live message, -5 another user's message, -6 expired; or nil and the
-- message as {epoch, sender, id, only, expires_at, rev}.
-- Uses publish_change
-- Uses entries: is_among, live_entry_at, sender_and_id
local function authorize_change(key, user, epoch, seq, moderates, visible_from, now)
  local room = redis.call('HMGET', key, 'epoch', 'rev', 'rev_life')
  if not room[1] then return -1 end
  local joined = redis.call('ZSCORE', key .. ':joined', user)
  if not joined and moderates ~= 'staff' then return -2 end
  local entry = live_entry_at(key, seq)
  if not entry or (epoch ~= '' and epoch ~= room[1]) then return -4 end
  local sender, id = sender_and_id(entry)
  local only = redis.call('HGET', key .. ':only', seq)
  if sender ~= user and moderates ~= 'staff' then
    local from = tonumber(visible_from) or tonumber(joined)
    local shown = tonumber(seq) > from and (not only or is_among(only, user))
    if not shown then return -4 end
    if moderates == '' then return -5 end
  end
  local expires_at = redis.call('HGET', key .. ':msg:' .. seq, 'expires_at')
  if not expires_at or tonumber(expires_at) <= now then return -6 end
  return nil, {epoch = room[1], sender = sender, id = id, only = only or '-', expires_at = expires_at, rev = next_rev(room[2], room[3])}
end
