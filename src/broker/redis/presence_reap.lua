-- Takes off the lists what a dead node's lease holds, a part at a time, and then ends the lease.
--
-- KEYS  1 all leases  2 what this lease holds (both as the script has them that lists)
-- ARGV  1 the lease  2 the beat with which it was found dead, or '*' from its own node
--       3 how many entries at most
--       4 what stands before a room's name in the name of its key  5 and of its channel
-- Returns {how many were taken off, 1 if the lease has ended or 0}; {0, 1} too if its node lives.
--
-- Whoever does this at the same time takes off other entries: each is announced as gone once.
local KEYS, ARGV, call = KEYS, ARGV, redis.call
local beat = call('HGET', KEYS[1], ARGV[1])
local is_ended = beat and string.sub(beat, 1, 1) == '-'
if ARGV[2] ~= '*' and beat ~= ARGV[2] and not is_ended then return {0, 1} end
-- From here on its node is told that it has lost it.
if beat and not is_ended then call('HSET', KEYS[1], ARGV[1], '-1000000000') end

local fields = call('HRANDFIELD', KEYS[2], ARGV[3])
local rooms, gone = {}, {}
for _, field in ipairs(fields) do
  local space = string.find(field, ' ', 1, true)
  if space then
    local room = string.sub(field, space + 1)
    rooms[room] = rooms[room] or {}
    table.insert(rooms[room], string.sub(field, 1, space - 1))
    gone[#gone + 1] = field
  end
end
local escapes, taken = {['{'] = '%7B', ['}'] = '%7D', ['%'] = '%25'}, 0
for room, sessions in pairs(rooms) do
  local key = ARGV[4] .. string.gsub(room, '[{}%%]', escapes) .. '}:presence'
  local held = call('HMGET', key, unpack(sessions))
  local dead, members = {}, {}
  for i, session in ipairs(sessions) do
    local lease, mark, user = string.match(held[i] or '', '^(%w+)([-=])(.*)$')
    -- It may stand there for another lease by now: that of the same node, when it was found alive.
    if lease == ARGV[1] then
      dead[#dead + 1] = session
      members[#members + 1] = cjson.encode({session = session, user = mark == '=' and user or nil})
    end
  end
  if #dead > 0 then
    call('HDEL', key, unpack(dead))
    redis.pcall('PUBLISH', ARGV[5] .. room, '{"left":[' .. table.concat(members, ',') .. ']}')
    taken = taken + #dead
  end
end
if #gone > 0 then call('HDEL', KEYS[2], unpack(gone)) end
if call('HLEN', KEYS[2]) - (call('HEXISTS', KEYS[2], '')) > 0 then return {taken, 0} end
call('DEL', KEYS[2])
call('HDEL', KEYS[1], ARGV[1])
return {taken, 1}
