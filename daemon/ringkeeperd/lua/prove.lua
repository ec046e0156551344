-- Publish a fresh proof for the version that Redis holds: the heartbeat.
--
-- KEYS[1] keyring (hash)
-- KEYS[2] lease (string)
-- KEYS[3] sealed (hash)
-- KEYS[4] witness (string)
-- ARGV[1] owner token
-- ARGV[2] the version that the proof vouches for
-- ARGV[3] snapshot that it vouches for
-- ARGV[4] proof
-- ARGV[5] channel
-- ARGV[6] message
-- ARGV[7] PUBLISH, or SPUBLISH in a Cluster
-- ARGV[8] a kid, ARGV[9] its sealed private key, which must be there, too, ARGV[10] another kid, ...
-- Returns {'ok', 1 if a witness has something to say, else 0}, {'fenced', '...'}, or
-- {'stale', version in Redis}. Idempotent.

if redis.call('GET', KEYS[2]) ~= ARGV[1] then
    return {'fenced', 'the lease is not ours any more'}
end
-- Anyone may have written a gigabyte: a length is compared before a value.
local function holds(key, field, value)
    return redis.call('HSTRLEN', key, field) == #value and redis.call('HGET', key, field) == value
end
local is_whole = holds(KEYS[1], 'version', ARGV[2]) and holds(KEYS[1], 'snapshot', ARGV[3])
for i = 8, #ARGV, 2 do
    is_whole = is_whole and holds(KEYS[3], ARGV[i], ARGV[i + 1])
end
if not is_whole then
    local is_short = redis.call('HSTRLEN', KEYS[1], 'version') <= 20
    return {'stale', is_short and redis.call('HGET', KEYS[1], 'version') or '0'}
end
redis.call('HSET', KEYS[1], 'proof', ARGV[4])
redis.call(ARGV[7], ARGV[5], ARGV[6])
return {'ok', redis.call('EXISTS', KEYS[4])}
