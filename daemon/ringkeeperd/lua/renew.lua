-- Hold on to the lease of a ring.
--
-- KEYS[1] lease (string, PX)
-- ARGV[1] owner token
-- ARGV[2] TTL, ms
-- Returns {'ok', now in ms}, or {'lost', now in ms}: another has it, or nobody. Idempotent.
--
-- It is written anew, not merely extended: a Redis that is out of memory extends and does not
-- write, and who cannot write must not go on leading.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return {'lost', now}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'ok', now}
