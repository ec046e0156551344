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
-- ARGV[8...] the kids whose sealed private keys must be there, too
-- Returns {'ok', 1 if a witness has something to say, else 0}, {'fenced', '...'}, or
-- {'stale', version in Redis}. Idempotent.

if redis.call('GET', KEYS[2]) ~= ARGV[1] then
    return {'fenced', 'the lease is not ours any more'}
end
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[2] or redis.call('HGET', KEYS[1], 'snapshot') ~= ARGV[3] then
    return {'stale', version}
end
for i = 8, #ARGV do
    if redis.call('HEXISTS', KEYS[3], ARGV[i]) == 0 then
        return {'stale', version}
    end
end
redis.call('HSET', KEYS[1], 'proof', ARGV[4])
redis.call(ARGV[7], ARGV[5], ARGV[6])
return {'ok', redis.call('EXISTS', KEYS[4])}
