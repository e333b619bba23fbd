#!lua flags=allow-oom
-- Record in `outcome` that a member's client cannot show a live message, even if the member's cursor is above it. Idempotent.
-- Returns 1 if it was recorded, 0 if it was recorded before or is not a message for this member
-- Uses clock, count, rejecters
-- Uses entries: is_among, is_tracked, live_entry_at, outcome_row, parse_attempts, parse_live_entry
local prefix       = KEYS[1]           -- of the partition's keys
local room_id      = ARGV[1]
local user         = ARGV[2]           -- user id
local epoch        = ARGV[3]
local seq          = ARGV[4]
local max_attempts = tonumber(ARGV[5])

local key = prefix .. 'room:' .. room_id
if redis.call('HGET', key, 'epoch') ~= epoch then return 0 end
local entry = live_entry_at(key, seq)
if not entry or not is_tracked(entry) then return 0 end
local _, sender = parse_live_entry(entry)
if sender == user then return 0 end
local joined = redis.call('ZSCORE', key .. ':joined', user)
if not joined or tonumber(joined) >= tonumber(seq) then return 0 end
local only = redis.call('HGET', key .. ':only', seq)
if only and not is_among(only, user) then return 0 end
if rejecters(key, seq, {user}, max_attempts)[user] then return 0 end

local n = parse_attempts(redis.call('HGET', key .. ':attempts', user))
redis.call('ZADD', key .. ':outcome', seq, outcome_row(seq, user, 'client_rejected', math.min(n, max_attempts)))
count(prefix, now_ms(), 'rejected', 1)
redis.call('PUBLISH', key, string.format('A %.0f', seq - 1))
return 1
