-- Numbers, keeps and publishes messages, in order; each of them whole or not at all.
--
-- KEYS  for each message: its room's numbering (hash), its room's messages (stream)
--       then, for each message that has one: its idempotence key (string)
-- ARGV  1 messages to keep (a few more are, until Redis can drop a whole piece of the stream: readers leave them out)
--       2 what is seldom needed, with spaces between: for how long messages are kept, how long a numbering lives and how
--         long an idempotence key lives, in ms; epoch and secret of a numbering that has to begin
--       then for each message: channel; payload without its last brace; the numbering "epoch secret" that the node has
--       seen last in the room, or '', its epoch, and the offset, or 0; the offset that the message will have if nobody else
--       has published since, and its seal, or ''; "e" if expiries are due, "k" if it has an idempotence key, "ek", or ''
-- Returns for each message: an error, or "offset" if the numbering is the one that was seen, or "offset epoch" of the
-- first publish if this one repeats it, or "offset epoch secret".
--
-- A numbering is a hash with the offset in the field "epoch secret", and a field "begun": one command counts, and
-- whoever counts in a numbering that is no more finds himself at 1.
--
-- What happens for every message is written without a function of its own, because making one costs as much as a
-- command, and with locals, because a global is looked up through the sandbox. A command gets its numbers as text, because
-- one is printed with all its digits, as a fraction would be.
local KEYS, ARGV, type, sub, format = KEYS, ARGV, type, string.sub, string.format
local try, sha1hex, messages = redis.pcall, redis.sha1hex, (#ARGV - 2) / 8
local clock = redis.call('TIME')
-- Milliseconds without leaving text: the microseconds have no leading zeros.
local finish = '","time":' .. clock[1] .. sub('00000' .. clock[2], -6, -4) .. '}'

local function seldom()
  return string.match(ARGV[2], '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
end

-- Finds out the room's numbering, or begins one: if there is none, if it is behind what the node has seen, or if asked.
local find
local function make_find()
  return function(numbering, log, index, seen, seen_offset, must_begin)
    local held, field, offset, begun = redis.call('HGETALL', numbering), nil, nil, false
    for i = 1, #held, 2 do
      if held[i] == 'begun' then
        begun = true
      elseif held[i] ~= seen or not field then
        field, offset = held[i], tonumber(held[i + 1])
      end
    end
    -- In this order: the first write is refused if Redis is out of memory, and then nothing has happened.
    if must_begin or not (begun and field) or (field == seen and offset < seen_offset) then
      local _, _, _, fresh_epoch, fresh_secret = seldom()
      -- The number first: no two secrets of a batch are alike, whatever offset stands behind them.
      field = fresh_epoch .. index .. ' ' .. index .. '-' .. fresh_secret
      redis.call('HSET', numbering, field, 0, 'begun', 1)
      redis.call('DEL', log)
    end
    local count = redis.call('HINCRBY', numbering, field, '1')
    for i = 1, #held, 2 do
      if held[i] ~= 'begun' and held[i] ~= field then redis.call('HDEL', numbering, held[i]) end
    end
    return field, count
  end
end

local answers, keys = {}, 2 * messages
for index = 1, messages do
  local at, numbering, log = 8 * index - 6, KEYS[2 * index - 1], KEYS[2 * index]
  local channel, open, seen, epoch = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local flags, problem, key, first = ARGV[at + 8], nil, nil, nil
  local is_due = sub(flags, 1, 1) == 'e'
  if sub(flags, -1) == 'k' then
    keys = keys + 1
    key = KEYS[keys]
    first = try('GET', key)
    if type(first) == 'table' then problem = first end
  end

  if not (first or problem) then
    local field, count, foreseen = seen, nil, ARGV[at + 6]
    local place, seal, payload, added
    if epoch ~= '' then
      -- The first write, so that nothing has happened yet if Redis is out of memory.
      count = try('HINCRBY', numbering, seen, '1')
      if type(count) == 'table' then
        problem = count
      else
        place = format('%d', count)
        -- What was foreseen is behind what was seen.
        if place ~= foreseen and (count == 1 or count <= tonumber(ARGV[at + 5])) then
          redis.call('HINCRBY', numbering, seen, '-1')
          count = nil
        end
      end
    end
    for attempt = 1, 2 do
      if not (count or problem) then
        find = find or make_find()
        local found
        found, field, count = pcall(find, numbering, log, index, seen, tonumber(ARGV[at + 5]), attempt == 2)
        if found then
          epoch = string.match(field, '^%S+')
          is_due, place = true, format('%d', count)
        else
          problem = field
        end
      end
      if problem then break end
      -- Mostly nobody else has published since; then the node has done this work already.
      seal = place == foreseen and field == seen and ARGV[at + 7]
        or sub(sha1hex(sub(field, #epoch + 2) .. place), 1, 16)
      payload = open .. ',"offset":' .. place .. ',"epoch":"' .. epoch .. '","seal":"' .. seal .. finish
      -- Trimming to the very message costs three times as much, so that is done only as often as expiries are set.
      added = try('XADD', log, 'MAXLEN', is_due and '=' or '~', ARGV[1], place .. '-0', 'p', payload)
      if type(added) ~= 'table' then break end
      redis.call('HINCRBY', numbering, field, '-1')
      -- The messages are ahead of their numbering, which was lost or restored from an older copy: it begins anew.
      if attempt == 1 and string.find(added.err, 'equal or smaller', 1, true) then count = nil else problem = added end
    end

    if not problem then
      if is_due then
        local log_ms, numbering_ms = seldom()
        redis.call('PEXPIRE', log, log_ms)
        redis.call('PEXPIRE', numbering, numbering_ms)
      end
      if key then
        local _, _, key_ms = seldom()
        redis.call('SET', key, place .. ' ' .. epoch, 'PX', key_ms)
      end
      local published = try('PUBLISH', channel, payload)
      if type(published) == 'table' then
        -- Refused by access rights. The offset stays used, so that nobody takes another message for this one.
        redis.call('XDEL', log, place .. '-0')
        if key then redis.call('DEL', key) end
        problem = published
      end
      first = field == seen and place or place .. ' ' .. field
    end
  end
  if problem then
    -- What another function has thrown is a table in some versions of Redis, and a text in others.
    answers[index] = redis.error_reply(type(problem) == 'table' and problem.err or tostring(problem))
  else
    answers[index] = first
  end
end
return answers
