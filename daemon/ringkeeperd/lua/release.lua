-- Let the lease of a ring go, if it is the caller's, so that another may lead at once.
--
-- KEYS[1] lease (string, PX)
-- ARGV[1] owner token
-- ARGV[2] channel: an empty message there tells the others
-- ARGV[3] PUBLISH, or SPUBLISH in a Cluster
-- Returns 1 if it was let go, else 0. Idempotent.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
redis.call('DEL', KEYS[1])
redis.call(ARGV[3], ARGV[2], '')
return 1
