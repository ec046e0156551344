-- Tell the audit what no publication tells, or take an operator's request off the stream, or both.
-- Promise 12.
--
-- KEYS[1] lease (string)
-- KEYS[2] requests (stream)
-- KEYS[3] events (stream)
-- ARGV[1] owner token
-- ARGV[2] the id of the entry of a request that is answered; empty where none is
-- ARGV[3] audit event; empty where a publication told it
-- ARGV[4] most events to keep, about
-- Returns {'ok', why the event could not be written, else ''}, or {'fenced', '...'}. Idempotent.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return {'fenced', 'the lease is not ours any more'}
end
if ARGV[2] ~= '' then
    redis.call('XDEL', KEYS[2], ARGV[2])
end
if ARGV[3] == '' then
    return {'ok', ''}
end
-- It may have been told already, by a caller whose reply was lost, or whose command came late.
local before = '+'
for _ = 1, 8 do
    local found = redis.pcall('XREVRANGE', KEYS[3], before, '-', 'COUNT', 1)
    if found['err'] or not found[1] then
        break
    end
    if found[1][2][2] == ARGV[3] then
        return {'ok', ''}
    end
    before = '(' .. found[1][1]
end
local told = redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'event', ARGV[3])
return {'ok', type(told) == 'table' and told['err'] or ''}
