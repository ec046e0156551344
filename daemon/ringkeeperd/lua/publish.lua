-- Replace the shared keyring, if it is still what the caller decided on. Promise 3.
--
-- KEYS[1] keyring (hash)     version, epoch, snapshot, proof
-- KEYS[2] sealed (hash)      kid -> sealed private key; and the channel that tells of new ones
-- KEYS[3] lease (string)     the leader's owner token
-- KEYS[4] epoch (string)     the newest epoch
-- KEYS[5] events (stream)    audit events
-- ARGV[1] owner token
-- ARGV[2] epoch of the caller's leadership
-- ARGV[3] the snapshot decided on; empty where there is to be no ring yet
-- ARGV[4] the version to write
-- ARGV[5] snapshot
-- ARGV[6] proof
-- ARGV[7] channel
-- ARGV[8] message
-- ARGV[9] most events to keep, about
-- ARGV[10] the changes of the sealed keys, JSON: {"put": {kid: sealed}, "kept": [kid]}
-- ARGV[11] PUBLISH, or SPUBLISH in a Cluster
-- ARGV[12...] audit events
-- Returns {'ok', why events could not be written, else ''}, {'fenced', '...'}, or
-- {'stale', version in Redis}.
--
-- All or nothing: apps see the former keyring or this one, never a mix. The hash is written first,
-- then the messages go out, and the audit comes last: no stream, full or misused, keeps a
-- revocation from those whom it protects. What is compared is the signed snapshot itself, for the
-- version beside it is anybody's to write. Idempotent: the very same snapshot again is 'ok' and
-- writes nothing.

if redis.call('GET', KEYS[3]) ~= ARGV[1] then
    return {'fenced', 'the lease is not ours any more'}
end
local stored = redis.call('GET', KEYS[4]) or ''
local epoch = string.match(stored, '^%d+$') and tonumber(stored) or 0
if epoch > tonumber(ARGV[2]) then
    return {'fenced', 'another leadership came after ours'}
end
-- Anyone may have written a gigabyte: a length is compared before a value.
local function is_there(snapshot)
    return redis.call('HSTRLEN', KEYS[1], 'snapshot') == #snapshot
        and (redis.call('HGET', KEYS[1], 'snapshot') or '') == snapshot
end
if is_there(ARGV[5]) then
    return {'ok', ''}
end
if not is_there(ARGV[3]) then
    local is_short = redis.call('HSTRLEN', KEYS[1], 'version') <= 20
    return {'stale', is_short and redis.call('HGET', KEYS[1], 'version') or '0'}
end

local changes = cjson.decode(ARGV[10])
for kid, sealed in pairs(changes['put']) do
    redis.call('HSET', KEYS[2], kid, sealed)
end
local kept = {}
for _, kid in ipairs(changes['kept']) do
    kept[kid] = true
end
for _, kid in ipairs(redis.call('HKEYS', KEYS[2])) do
    if not kept[kid] then
        redis.call('HDEL', KEYS[2], kid)
    end
end
redis.call('HSET', KEYS[1], 'version', ARGV[4], 'epoch', ARGV[2], 'snapshot', ARGV[5],
    'proof', ARGV[6])
-- Before the version that has it, so that whoever is to sign with it has it then and reads nothing.
-- Of a user that may not speak there, apps read it; and all of it after a change of KEK, each in its
-- own time: to say so much to thousands would hold Redis up.
local fresh = {}
for kid, sealed in pairs(changes['put']) do
    fresh[#fresh + 1] = kid .. '\n' .. sealed
end
if #fresh <= 4 then
    for _, message in ipairs(fresh) do
        redis.pcall(ARGV[11], KEYS[2], message)
    end
end
redis.call(ARGV[11], ARGV[7], ARGV[8])
local failure = ''
for i = 12, #ARGV do
    local told = redis.pcall('XADD', KEYS[5], 'MAXLEN', '~', ARGV[9], '*', 'event', ARGV[i])
    if type(told) == 'table' and told['err'] then
        failure = told['err']
    end
end
return {'ok', failure}
