-- Numbers a message, keeps it and publishes it: all of that or nothing.
--
-- KEYS  1 numbering (hash)  2 messages (stream)  3 the publish's idempotence key (string), if it has one
-- ARGV  1 channel  2 payload without its last brace  3 messages to keep  4 for how long, ms
--       5 how long the numbering lives, ms  6 how long the idempotence key lives, ms
--       7, 8 epoch and secret, if a numbering has to begin
--       9, 10 epoch and offset that the node has seen: a numbering that is behind them has lost messages
-- Returns "offset epoch"; for a repeated publish, that of the first one.
local numbering, log, key = KEYS[1], KEYS[2], KEYS[3]
if key then
  local first = redis.call('GET', key)
  if first then return first end
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local held = redis.call('HMGET', numbering, 'epoch', 'secret', 'offset', 'until')
local epoch, secret, offset, lives_until = held[1], held[2], tonumber(held[3]), tonumber(held[4])

local function begin()
  epoch, secret, offset, lives_until = ARGV[7], ARGV[8], 0, nil
  redis.call('DEL', log)
end

local place, payload
local function append()
  place = string.format('%.0f', offset + 1)
  payload = ARGV[2] .. ',"offset":' .. place .. ',"epoch":"' .. epoch
    .. '","seal":"' .. string.sub(redis.sha1hex(secret .. place), 1, 16)
    .. '","time":' .. string.format('%.0f', now) .. '}'
  local added = redis.pcall('XADD', log, 'MAXLEN', ARGV[3], place .. '-0', 'p', payload)
  return type(added) == 'table' and added.err
end

if not (epoch and secret and offset) or (epoch == ARGV[9] and offset < tonumber(ARGV[10])) then begin() end
-- The first write, so that nothing has happened yet if Redis is out of memory.
local problem = append()
if problem and string.find(problem, 'equal or smaller', 1, true) then
  -- The messages are ahead of their numbering, which was lost or restored from an older copy.
  begin()
  problem = append()
end
if problem then return redis.error_reply(problem) end

redis.call('PEXPIRE', log, ARGV[4])
if lives_until and lives_until - now > ARGV[5] - 86400000 then
  redis.call('HSET', numbering, 'offset', place)
else
  redis.call('HSET', numbering, 'epoch', epoch, 'secret', secret, 'offset', place,
    'until', string.format('%.0f', now + ARGV[5]))
  redis.call('PEXPIRE', numbering, ARGV[5])
end
local answer = place .. ' ' .. epoch
if key then redis.call('SET', key, answer, 'PX', ARGV[6]) end

local published = redis.pcall('PUBLISH', ARGV[1], payload)
if type(published) == 'table' and published.err then
  -- Refused by access rights. The offset stays used, so that nobody takes another message for this one.
  redis.call('XDEL', log, place .. '-0')
  if key then redis.call('DEL', key) end
  return published
end
return answer
