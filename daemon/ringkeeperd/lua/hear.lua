-- Let a witness go whom the leader has heard, so that the next one can speak.
--
-- KEYS[1] witness (string)
-- KEYS[2] lease (string)
-- ARGV[1] owner token
-- ARGV[2] what the witness said
-- Returns 1 if it was let go, else 0: somebody said something else meanwhile. Idempotent.

if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('TYPE', KEYS[1])['ok'] ~= 'string' then
    return 0
end
if redis.call('GET', KEYS[1]) ~= ARGV[2] then
    return 0
end
return redis.call('DEL', KEYS[1])
