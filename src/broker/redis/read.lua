-- Tells where rooms are and reads what comes after an offset in each. A room without numbering gets one.
--
-- KEYS  for each room: its numbering (hash, as the publish script has it), its messages (stream)
-- ARGV  1, 2 epoch and secret of numberings that have to begin
--       3 how long a numbering lives, ms  4 how long if nothing was ever published, ms  5 how long messages live, ms
--       6 so many are kept: the stream may have some more
--       then for each room: epoch and offset that the node has seen (a numbering that is behind them has lost messages);
--       read after this offset of that epoch, and everything of another one, or '' to read nothing; messages at most; bytes,
--       as far as whole messages allow
-- Returns for each room an error or {epoch, secret, offset, id, payload, id, payload, …}
local KEYS, ARGV, call = KEYS, ARGV, redis.call

local function read(numbering, log, at, index)
  local held, epoch, secret, offset, begun = call('HGETALL', numbering), nil, nil, nil, false
  for i = 1, #held, 2 do
    if held[i] == 'begun' then
      begun = true
    else
      epoch, secret = string.match(held[i], '^(%S+) (%S+)$')
      offset = held[i + 1]
    end
  end
  if not (begun and epoch) or (epoch == ARGV[at + 1] and tonumber(offset) < tonumber(ARGV[at + 2])) then
    -- The number first: no two secrets of a call are alike, whatever offset stands behind them.
    epoch, secret, offset = ARGV[1] .. index, index .. '-' .. ARGV[2], '0'
    -- The first write is refused if Redis is out of memory, and then nothing has happened.
    call('HSET', numbering, epoch .. ' ' .. secret, '0', 'begun', '1')
    for i = 1, #held, 2 do
      if held[i] ~= 'begun' then call('HDEL', numbering, held[i]) end
    end
    call('DEL', log)
  end
  -- A server that takes no writes at the moment can be read all the same.
  redis.pcall('PEXPIRE', numbering, offset == '0' and ARGV[4] or ARGV[3])

  local answer = {epoch, secret, offset}
  if ARGV[at + 3] == '' then
    -- Evicted and written to again, the messages could have lost their expiry.
    if offset ~= '0' and call('PTTL', log) == -1 then redis.pcall('PEXPIRE', log, ARGV[5]) end
    return answer
  end
  local after = math.max(epoch == ARGV[at + 1] and tonumber(ARGV[at + 3]) or 0, tonumber(offset) - tonumber(ARGV[6]))
  local entries, bytes = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  -- In growing steps: Redis holds a whole step in memory before its bytes can be counted.
  local step = 128
  while entries > 0 and bytes > 0 do
    local count = math.min(step, entries)
    local part = call('XRANGE', log, string.format('%.0f-0', after + 1), '+', 'COUNT', count)
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
end

local answers = {}
for index = 1, #KEYS / 2 do
  local done, answer = pcall(read, KEYS[2 * index - 1], KEYS[2 * index], 1 + 5 * index, index)
  if not done then
    -- What is thrown is a table in some versions of Redis, and a text in others.
    answer = redis.error_reply(type(answer) == 'table' and answer.err or tostring(answer))
  end
  answers[index] = answer
end
return answers
