-- Publishes a message unless its idempotence key is known: for nodes without history.
--
-- KEYS  1 the idempotence key (string)
-- ARGV  1 channel  2 payload  3 how long the key lives, ms
if redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[3]) then
  local published = redis.pcall('PUBLISH', ARGV[1], ARGV[2])
  if type(published) == 'table' and published.err then
    redis.call('DEL', KEYS[1])
    return published
  end
end
return 1
