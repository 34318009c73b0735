-- Lists sessions of one node as members of rooms, and takes others off the lists; all of it or nothing.
--
-- KEYS  1 all leases (hash: lease, its beat)  2 what this lease holds (hash: "session room", and '' with the number of the
--       last batch)  then for each room: who is in it (hash: session, lease and user)
-- ARGV  1 the lease  2 a beat that it has had  3 a batch that it has had  4 the number of this batch
--       5 how many fields of the second key go  then these, and then those that come
--       then for each room: its channel; what is published there; "r" if this node holds nothing in it as yet, or ''; how many
--       come and how many go; session and value of those, session of these
--       at last how long a room that is new to the node lives from now on if nobody renews it, ms
-- Returns 'LOST' if the lease is not what it was: its node was taken for dead, or data was lost, or this batch was overtaken.
-- Otherwise the beat, and for each room with "r" what was in it before; for the others 0.
--
-- Everything may be done again: who is there already is not announced. A batch that comes late, over a connection that was
-- given up, finds a higher number.
local KEYS, ARGV, call = KEYS, ARGV, redis.call
-- The first write, so that nothing has happened yet if Redis is out of memory.
local beat = call('HINCRBY', KEYS[1], ARGV[1], 1)
if beat <= tonumber(ARGV[2]) then
  if beat == 1 then call('HDEL', KEYS[1], ARGV[1]) else call('HINCRBY', KEYS[1], ARGV[1], -1) end
  return 'LOST'
end
local last = tonumber(call('HGET', KEYS[2], '') or 0)
if last < tonumber(ARGV[3]) or last >= tonumber(ARGV[4]) then return 'LOST' end

local at, go = 5, tonumber(ARGV[5])
if go > 0 then call('HDEL', KEYS[2], unpack(ARGV, at + 1, at + go)) end
at = at + go + 1
local come, held = tonumber(ARGV[at]), {'', ARGV[4]}
for i = at + 1, at + come do
  held[#held + 1] = ARGV[i]
  held[#held + 1] = ''
end
call('HSET', KEYS[2], unpack(held))
at = at + come + 1

-- One command for all rooms that are new to the node: mostly nobody is there.
local rooms, entered = {}, {}
for index = 3, #KEYS do
  local room = {at = at, come = tonumber(ARGV[at + 3]), go = tonumber(ARGV[at + 4])}
  if ARGV[at + 2] == 'r' then entered[#entered + 1] = KEYS[index] end
  rooms[index - 2] = room
  at = at + 5 + 2 * room.come + room.go
end
local occupied = #entered > 0 and call('EXISTS', unpack(entered)) > 0

local answers = {beat}
for index, room in ipairs(rooms) do
  local key, first, before = KEYS[index + 2], room.at + 5, 0
  if ARGV[room.at + 2] == 'r' then before = occupied and call('HGETALL', key) or {} end
  local changed = 0
  if room.come > 0 then
    changed = call('HSET', key, unpack(ARGV, first, first + 2 * room.come - 1))
    if ARGV[room.at + 2] == 'r' then call('PEXPIRE', key, ARGV[#ARGV]) end
  end
  first = first + 2 * room.come
  if room.go > 0 then changed = changed + call('HDEL', key, unpack(ARGV, first, first + room.go - 1)) end
  -- Where nobody was there is nobody to be told.
  if changed > 0 and (before == 0 or #before > 0) then
    redis.pcall('PUBLISH', ARGV[room.at], ARGV[room.at + 1])
  end
  answers[index + 1] = before
end
return answers
