-- How many tokens of some keys have not expired, by when they do.
--
-- KEYS[...] signed (hash)   EXPIRES:KID -> how many; expiries are multiples of a step
-- ARGV[1] now, in seconds since the epoch
-- ARGV[2] how many steps one hash holds
-- ARGV[3] how many kids follow, then the kids
-- ARGV[...] for each of KEYS its step, and the first expiry that lies in it
-- Returns {expires, place of the kid among the kids, how many, expires, ...}. It only reads.
--
-- Anyone may write here: what is no number that apps may count to is left out, whatever its length,
-- and other fields than those asked for are never looked at.

local answer = {}
local now, steps, kids = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for i, key in ipairs(KEYS) do
    local step, first = tonumber(ARGV[2 + kids + 2 * i]), tonumber(ARGV[3 + kids + 2 * i])
    local there = redis.call('TYPE', key)['ok'] == 'hash'
    for n = 0, there and steps - 1 or -1 do
        local expires = first + n * step
        for j = 1, expires > now and kids or 0 do
            local field = string.format('%.0f:%s', expires, ARGV[3 + j])
            local length = redis.call('HSTRLEN', key, field)
            if length > 0 and length <= 10 then
                answer[#answer + 1] = expires
                answer[#answer + 1] = j
                answer[#answer + 1] = redis.call('HGET', key, field)
            end
        end
    end
end
return answer
