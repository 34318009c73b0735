-- Makes a demand of all nodes, and keeps it for those that cannot hear it now.
--
-- KEYS  1 demands of late (stream, each with the payload in its field)
-- ARGV  1 the payload, a JSON object  2 the control channel  3 how long it is kept, ms  4 how many are
-- Returns how many connections are subscribed to the channel. They hear the payload with its place in the stream as `at`.
local payload = ARGV[1]
-- Not what PUBLISH returns, which counts those who listen by a pattern as well: they answer nothing.
local subscribed = redis.call('PUBSUB', 'NUMSUB', ARGV[2])[2]
local place = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'demand', payload)
if type(place) == 'string' then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  payload = string.sub(payload, 1, -2) .. ',"at":"' .. place .. '"}'
elseif not (string.find(place.err, 'OOM', 1, true) or string.find(place.err, 'MISCONF', 1, true)) then
  -- A replica, say, or a master without one: the nodes may be subscribed elsewhere.
  return redis.error_reply(place.err)
end
-- Where nothing can be kept, because memory or disk is full, those who can hear it shall.
redis.call('PUBLISH', ARGV[2], payload)
return subscribed
