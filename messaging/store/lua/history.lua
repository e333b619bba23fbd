#!lua flags=no-writes
-- Read the newest messages below `before` that a member may see, newest first.
-- Returns {epoch, more (0|1), messages, `before` for the next call} or a code: -1 the room has no log, -2 not a member
-- Uses clock, messages
-- Uses entries: is_among, parse_live_entry
local prefix       = KEYS[1]           -- of the partition's keys
local room_id      = ARGV[1]
local user         = ARGV[2]           -- user id
local before       = ARGV[3]           -- seq
local limit        = tonumber(ARGV[4]) -- messages
local max_bytes    = tonumber(ARGV[5]) -- of bodies
local visible_from = ARGV[6]           -- seq; '': the user's joining

local LOOK_ROWS = 500
local key = prefix .. 'room:' .. room_id
local epoch = redis.call('HGET', key, 'epoch')
if not epoch then return -1 end
local joined = redis.call('ZSCORE', key .. ':joined', user)
if not joined then return -2 end

local from = visible_from == '' and joined or visible_from
local now = now_ms()
local only_some = redis.call('EXISTS', key .. ':only') == 1
local entries = redis.call('ZREVRANGEBYSCORE', key .. ':live', '(' .. before, '(' .. from, 'LIMIT', 0, LOOK_ROWS + 1)
local messages, bytes, looked, next_before = {}, 0, 0, tonumber(before)
for _, entry in ipairs(entries) do
  if #messages == limit or bytes > max_bytes or looked == LOOK_ROWS then break end
  local seq, sender = parse_live_entry(entry)
  local only = only_some and sender ~= user and redis.call('HGET', key .. ':only', seq)
  bytes = bytes + (only and #only / 8 or 0)
  if not only or is_among(only, user) then
    local fields = visible_fields(key, seq, now)
    if fields then
      messages[#messages + 1] = {tonumber(seq), fields}
      bytes = bytes + bytes_of(fields)
    end
  end
  looked = looked + 1
  next_before = tonumber(seq)
end
return {epoch, looked < #entries and 1 or 0, messages, next_before}
