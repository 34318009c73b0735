-- Numbers, keeps and publishes messages, in order; each of them whole or not at all.
--
-- KEYS  for each message: its room's numbering (hash), its room's messages (stream)
--       then, for each message that has one: its idempotence key (string)
-- ARGV  1 messages to keep  2 for how long, ms  3 how long a numbering lives, ms  4 how long an idempotence key lives, ms
--       5, 6 epoch and secret of a numbering that has to begin
--       then for each message: channel; payload without its last brace; epoch, secret and offset that the node has
--       seen last in the room, or '', '' and 0; "e" if expiries are due, "k" if it has an idempotence key, "ek", or ''
-- Returns for each message: an error, or "offset" if the numbering is the one that was seen, or "offset epoch" of the
-- first publish if this one repeats it, or "offset epoch secret".
--
-- A numbering is a hash with the offset in the field "epoch secret", and a field "begun": one command counts, and
-- whoever counts in a numbering that is no more finds himself at 1.
--
-- What happens for every message is written without a function of its own, because making one costs as much as a
-- command, and with locals, because a global is looked up through the sandbox.
local KEYS, ARGV, type, sub, format = KEYS, ARGV, type, string.sub, string.format
local try, sha1hex, messages = redis.pcall, redis.sha1hex, (#ARGV - 6) / 6
local clock = redis.call('TIME')
-- Milliseconds without leaving text: the microseconds have no leading zeros.
local finish = '","time":' .. clock[1] .. sub('00000' .. clock[2], -6, -4) .. '}'

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
    if must_begin or not (begun and field) or (field == seen and offset < seen_offset) then
      field = ARGV[5] .. index .. ' ' .. ARGV[6] .. index
      redis.call('DEL', numbering, log)
      redis.call('HSET', numbering, field, 0, 'begun', 1)
    elseif field ~= seen then
      redis.call('HDEL', numbering, seen)
    end
    return field, redis.call('HINCRBY', numbering, field, 1)
  end
end

local answers, keys = {}, 2 * messages
for index = 1, messages do
  local at, numbering, log = 6 * index, KEYS[2 * index - 1], KEYS[2 * index]
  local channel, open, epoch, secret = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local seen, flags, problem, key, first = epoch .. ' ' .. secret, ARGV[at + 6], nil, nil, nil
  local is_due = sub(flags, 1, 1) == 'e'
  if sub(flags, -1) == 'k' then
    keys = keys + 1
    key = KEYS[keys]
    first = try('GET', key)
    if type(first) == 'table' then problem = first end
  end

  if not (first or problem) then
    local field, count = seen, nil
    if epoch ~= '' then
      -- The first write, so that nothing has happened yet if Redis is out of memory.
      count = try('HINCRBY', numbering, seen, 1)
      if type(count) == 'table' then
        problem = count
      elseif count == 1 or count <= tonumber(ARGV[at + 5]) then
        redis.call('HINCRBY', numbering, seen, -1)
        count = nil
      end
    end
    local place, payload, added
    for attempt = 1, 2 do
      if not (count or problem) then
        find = find or make_find()
        local found
        found, field, count = pcall(find, numbering, log, index, seen, tonumber(ARGV[at + 5]), attempt == 2)
        if found then
          epoch, secret = string.match(field, '^(%S+) (%S+)$')
          is_due = true
        else
          problem = field
        end
      end
      if problem then break end
      place = format('%d', count)
      payload = open .. ',"offset":' .. place .. ',"epoch":"' .. epoch
        .. '","seal":"' .. sub(sha1hex(secret .. place), 1, 16) .. finish
      added = try('XADD', log, 'MAXLEN', ARGV[1], place .. '-0', 'p', payload)
      if type(added) ~= 'table' then break end
      redis.call('HINCRBY', numbering, field, -1)
      -- The messages are ahead of their numbering, which was lost or restored from an older copy: it begins anew.
      if attempt == 1 and string.find(added.err, 'equal or smaller', 1, true) then count = nil else problem = added end
    end

    if not problem then
      if is_due then
        redis.call('PEXPIRE', log, ARGV[2])
        redis.call('PEXPIRE', numbering, ARGV[3])
      end
      if key then redis.call('SET', key, place .. ' ' .. epoch, 'PX', ARGV[4]) end
      local published = try('PUBLISH', channel, payload)
      if type(published) == 'table' then
        -- Refused by access rights. The offset stays used, so that nobody takes another message for this one.
        redis.call('XDEL', log, place .. '-0')
        if key then redis.call('DEL', key) end
        problem = published
      end
      first = field == seen and place or place .. ' ' .. epoch .. ' ' .. secret
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
