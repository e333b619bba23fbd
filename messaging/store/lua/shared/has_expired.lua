-- Return whether a message has expired or was deleted.
local function has_expired(key, seq, now)
  local expires_at = redis.call('HGET', key .. ':msg:' .. seq, 'expires_at')
  return not expires_at or tonumber(expires_at) <= now
end
