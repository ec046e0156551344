-- The instances that were heard of within the liveness window; those long gone are forgotten.
--
-- KEYS[1] instances (hash)    instance id -> what it confirmed
-- KEYS[2] seen (sorted set)   instance id -> last heard of, ms
-- ARGV[1] liveness window, ms
-- ARGV[2] a leader's mark, empty for who only looks
-- Returns {whether the mark was there, id, last heard of, what it confirmed, id, ...}. Idempotent.
--
-- The mark is a row of no instance, with an empty id. Where it is gone, the table was lost since the
-- leader last looked, and whoever is not in it again yet may be alive.
--
-- Anyone who may write to Redis may write here: so rows and their length are limited, and a key that
-- is no such table is dropped. It is not the truth: whoever lives is in it again at its next poll.

for i, expected in ipairs({'hash', 'zset'}) do
    local kind = redis.call('TYPE', KEYS[i])['ok']
    if kind ~= expected and kind ~= 'none' then
        redis.call('DEL', KEYS[i])
    end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window = tonumber(ARGV[1])
local function forget(from, to)
    for _, id in ipairs(redis.call('ZRANGE', KEYS[2], from, to, 'BYSCORE', 'LIMIT', 0, 500)) do
        redis.call('HDEL', KEYS[1], id)
        redis.call('ZREM', KEYS[2], id)
    end
end
forget('-inf', now - 10 * window)
forget(now + 864e5, '+inf')  -- Redis' own clock wrote none of these
local live = redis.call('ZRANGE', KEYS[2], now - window, '+inf', 'BYSCORE', 'LIMIT', 0, 20000,
    'WITHSCORES')
local answer = {0}
for i = 1, #live, 2 do
    local is_short = redis.call('HSTRLEN', KEYS[1], live[i]) <= 1000
    local record = is_short and redis.call('HGET', KEYS[1], live[i]) or ''
    if live[i] ~= '' then
        answer[#answer + 1] = string.sub(live[i], 1, 200)
        answer[#answer + 1] = live[i + 1]
        answer[#answer + 1] = record
    end
end
if ARGV[2] ~= '' then
    -- Not among the rows: however many there are, they hide it from nobody. Of equal scores the
    -- empty id comes first.
    local is_short = redis.call('HSTRLEN', KEYS[1], '') <= 1000
    local mark = is_short and redis.call('HGET', KEYS[1], '') or ''
    local score, owner = string.match(mark, '^(%d+) (.*)$')
    if owner == ARGV[2] then
        local first = redis.call('ZRANGE', KEYS[2], score, score, 'BYSCORE', 'LIMIT', 0, 1)
        answer[1] = first[1] == '' and 1 or 0
    end
    -- For most of a day: a leader may not look for long.
    score = string.format('%.0f', now + 8e7)
    redis.call('HSET', KEYS[1], '', score .. ' ' .. ARGV[2])
    redis.call('ZADD', KEYS[2], score, '')
end
return answer
