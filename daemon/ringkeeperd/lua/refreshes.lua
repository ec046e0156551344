-- How many sessions were refreshed, by time and reason.
--
-- KEYS[...] refreshes (hash)   BUCKET:REASON -> how many; each holds a stretch of buckets
-- ARGV[1] the first bucket to look at, ARGV[2] the last one
-- ARGV[3] how many buckets one hash holds; KEYS[1] is the one that holds the first
-- ARGV[4...] reasons
-- Returns {bucket, place of the reason among the reasons, how many, bucket, ...}, without zeros.
--
-- Anyone may write here: what is no number that apps may count to is left out, whatever its length.

local answer = {}
local first, last, stretch = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for i, key in ipairs(KEYS) do
    local from = (math.floor(first / stretch) + i - 1) * stretch
    local there = redis.call('TYPE', key)['ok'] == 'hash'
    for bucket = math.max(first, from), there and math.min(last, from + stretch - 1) or -1 do
        for j = 4, #ARGV do
            local field = string.format('%.0f:%s', bucket, ARGV[j])
            local length = redis.call('HSTRLEN', key, field)
            if length > 0 and length <= 10 then
                answer[#answer + 1] = bucket
                answer[#answer + 1] = j - 3
                answer[#answer + 1] = redis.call('HGET', key, field)
            end
        end
    end
end
return answer
