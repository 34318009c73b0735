-- Makes a demand of all nodes, and keeps it for those that cannot hear it now.
--
-- KEYS  1 demands of late (stream, each with the payload in its field)
-- ARGV  1 the payload, a JSON object  2 the control channel  3 how long it is kept, ms  4 how many are
-- Returns how many connections are subscribed to the channel. They hear the payload with its place in the stream as `at`.
local place = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'demand', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
-- Not what PUBLISH returns: that counts those who listen by a pattern, and they answer nothing.
local heard = redis.call('PUBSUB', 'NUMSUB', ARGV[2])[2]
redis.call('PUBLISH', ARGV[2], string.sub(ARGV[1], 1, -2) .. ',"at":"' .. place .. '"}')
return heard
