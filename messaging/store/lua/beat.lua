#!lua flags=allow-oom
-- Record that a job ran now. Also in a full store: otherwise the jobs that free its memory would seem to have stopped.
-- Uses clock
local key   = KEYS[1] -- of the jobs' last runs
local job   = ARGV[1]
local facts = ARGV[2] -- JSON object

local run = cjson.decode(facts)
run.at = now_ms()
redis.call('HSET', key, job, cjson.encode(run))
return 1
