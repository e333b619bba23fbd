-- Messages as the scripts return them: {seq, {id, sender, name, body, sent_at, expires_at, reply_to, edited_at, resends}}.
local MESSAGE_FIELDS = {'id', 'sender', 'name', 'body', 'sent_at', 'expires_at', 'reply_to', 'edited_at', 'resends'}
local FIELDS_BYTES = 200 -- of a message, without its body

-- Return the fields, nil if the message has expired or was deleted.
local function visible_fields(key, seq, now)
  local fields = redis.call('HMGET', key .. ':msg:' .. seq, unpack(MESSAGE_FIELDS))
  if fields[1] and tonumber(fields[6]) > now then return fields end
end

local function bytes_of(fields) return #fields[4] + FIELDS_BYTES end
