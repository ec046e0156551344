-- The newest audit events, the newest first. What is too long to be one is left out.
--
-- KEYS[1] events (stream)
-- ARGV[1] how many to look at, at the most
-- ARGV[2] how many bytes one may have
-- Returns {id, event, id, event, ...}. It only reads.
--
-- Anyone may write here: so they are read one by one, and after a few that are too long no more.

local answer, before, left = {}, '+', 5
local there = redis.call('TYPE', KEYS[1])['ok'] == 'stream'
for _ = 1, there and tonumber(ARGV[1]) or 0 do
    local found = redis.call('XREVRANGE', KEYS[1], before, '-', 'COUNT', 1)[1]
    if not found or left == 0 then
        break
    end
    before = '(' .. found[1]
    if #found[2] == 2 and found[2][1] == 'event' and #found[2][2] <= tonumber(ARGV[2]) then
        answer[#answer + 1] = found[1]
        answer[#answer + 1] = found[2][2]
    else
        left = left - 1
    end
end
return answer
