-- Take the lease of a ring, if nobody has it.
--
-- KEYS[1] lease (string, PX)   the leader's owner token
-- KEYS[2] epoch (string)       the newest epoch
-- ARGV[1] owner token, new each incarnation
-- ARGV[2] TTL, ms
-- ARGV[3] the highest epoch that the caller has seen in a signed document
-- Returns {'ok', epoch, now in ms}, or {'held', ms that the lease has left, now in ms}.
--
-- Idempotent: the owner that lost the reply gets the same epoch again. The epoch is above what is
-- stored and above what was seen, so it never repeats, not even after Redis lost its data. What is
-- stored is not signed: what no number of leaderships explains is not counted on from.
--
-- A lease that has ten times our TTL left (never less than a minute, nor more than the ten that may
-- be configured), or no end, is nobody's: Redis' clock was set back under it, it came out of a
-- backup, or somebody else wrote it. Were it somebody's after all, that one's writes are refused.

-- What is no string under either key is nobody's, too.

local function text(key)
    return redis.call('TYPE', key)['ok'] == 'string' and redis.call('GET', key)
end
local seen = tonumber(ARGV[3])
local stored = text(KEYS[2]) or ''
local counted = string.match(stored, '^%d+$') and #stored <= 15 and tonumber(stored)
local is_sound = counted and counted > seen and counted <= seen + 1e6
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holder = text(KEYS[1])
if holder == ARGV[1] and is_sound then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return {'ok', counted, now}
end
local left = redis.call('PTTL', KEYS[1])
local longest = math.min(math.max(10 * ARGV[2], 60000), 600000)
if holder and holder ~= ARGV[1] and left >= 0 and left <= longest then
    return {'held', left, now}
end
local epoch = (is_sound and counted or seen) + 1
redis.call('SET', KEYS[2], string.format('%.0f', epoch))
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'ok', epoch, now}
