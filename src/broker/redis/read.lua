-- Tells where a room is and reads what comes after an offset. A room without numbering gets one.
--
-- KEYS  1 numbering (hash, as the publish script has it)  2 messages (stream)
-- ARGV  1, 2 epoch and secret, if a numbering has to begin
--       3, 4 epoch and offset that the node has seen: a numbering that is behind them has lost messages
--       5 read after this offset of that epoch, and everything of another one; empty: read nothing
--       6 messages at most  7 bytes, as far as whole messages allow
--       8 how long the numbering lives, ms  9 how long if nothing was ever published, ms  10 how long messages live, ms
-- Returns {epoch, secret, offset, id, payload, id, payload, …}
local numbering, log = KEYS[1], KEYS[2]
local held, epoch, secret, offset, begun = redis.call('HGETALL', numbering), nil, nil, nil, false
for i = 1, #held, 2 do
  if held[i] == 'begun' then
    begun = true
  else
    epoch, secret = string.match(held[i], '^(%S+) (%S+)$')
    offset = held[i + 1]
  end
end
if not (begun and epoch) or (epoch == ARGV[3] and tonumber(offset) < tonumber(ARGV[4])) then
  epoch, secret, offset = ARGV[1], ARGV[2], '0'
  -- The first write is refused if Redis is out of memory, and then nothing has happened.
  redis.call('HSET', numbering, epoch .. ' ' .. secret, 0, 'begun', 1)
  for i = 1, #held, 2 do
    if held[i] ~= 'begun' then redis.call('HDEL', numbering, held[i]) end
  end
  redis.call('DEL', log)
end
-- A server that takes no writes at the moment can be read all the same.
redis.pcall('PEXPIRE', numbering, offset == '0' and ARGV[9] or ARGV[8])

local answer = {epoch, secret, offset}
if ARGV[5] == '' then
  -- Evicted and written to again, the messages could have lost their expiry.
  if redis.call('PTTL', log) == -1 then redis.pcall('PEXPIRE', log, ARGV[10]) end
  return answer
end
local after = epoch == ARGV[3] and tonumber(ARGV[5]) or 0
local entries, bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
-- In growing steps: Redis holds a whole step in memory before its bytes can be counted.
local step = 128
while entries > 0 and bytes > 0 do
  local count = math.min(step, entries)
  local part = redis.call('XRANGE', log, string.format('%.0f-0', after + 1), '+', 'COUNT', count)
  for _, entry in ipairs(part) do
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = entry[2][2]
    after = tonumber(string.match(entry[1], '^%d+'))
    bytes = bytes - #entry[2][2]
    if bytes <= 0 then break end
  end
  if #part < count then break end
  entries = entries - count
  step = step * 8
end
return answer
