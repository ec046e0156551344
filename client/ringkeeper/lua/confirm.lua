-- An instance says what it holds, and that it is alive; by Redis' clock, the one all share.
--
-- KEYS[1] instances (hash)    instance id -> what it confirmed
-- KEYS[2] seen (sorted set)   instance id -> last heard of, ms
-- ARGV[1] instance id
-- ARGV[2] what it confirms, JSON
-- Returns the time in ms. Idempotent.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])
return now
