-- Deletes a room's messages and begins a numbering, so that nothing of before counts any more; and tells all nodes.
--
-- KEYS  1 numbering (hash, as the publish script has it)  2 messages (stream)
-- ARGV  1, 2 epoch and secret of the numbering that begins  3 how long it lives, ms
--       4 the control channel  5 what is said there
-- Returns 1. Called again with the same numbering it only tells the nodes again.
local numbering, field = KEYS[1], ARGV[1] .. ' ' .. ARGV[2]
local held, is_begun = redis.call('HGETALL', numbering), false
for i = 1, #held, 2 do
  is_begun = is_begun or held[i] == field
end
if not is_begun then
  -- The first write is refused if Redis is out of memory, and then nothing has happened.
  redis.call('HSET', numbering, field, 0, 'begun', 1)
  for i = 1, #held, 2 do
    if held[i] ~= 'begun' then redis.call('HDEL', numbering, held[i]) end
  end
  redis.call('DEL', KEYS[2])
  redis.call('PEXPIRE', numbering, ARGV[3])
end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
