"""What a Redis server does in one atomic step, in its own Lua. All names of keys are passed in KEYS
and lie in one slot. Arguments and answers are texts.

A script that fails half-way is not undone, so whatever can be refused, for a right that is missing
or a key of another type, is tried before anything is written that counts, or replaced.
"""

from __future__ import annotations

# KEYS: head, changes and, for a request with an id, its own. ARGV: the head that is demanded or '',
# how many changes the whole request is to record, for how many seconds its id is kept; then the
# changes, each as the count of its fields and these. Answers an outcome, and what is kept of the
# request: generation, first and last number of this step, the count, and the id of its first entry.
APPEND = """
local after, total, kept_s = ARGV[1], ARGV[2], ARGV[3]
local generation, seq = unpack(redis.call('HMGET', KEYS[1], 'generation', 'seq'))
if not generation or not seq then return {'EMPTY'} end
local known = KEYS[3] and redis.call('GET', KEYS[3])
if known and known ~= '' then return {'KNOWN', known} end
if after ~= '' and after ~= generation .. ' ' .. seq then return {'MOVED'} end
redis.call('HINCRBY', KEYS[1], 'seq', 0)
if KEYS[3] then redis.call('SET', KEYS[3], '', 'EX', kept_s) end
local last, first_id = tonumber(seq), nil
local at = 4
while at <= #ARGV do
  local size = tonumber(ARGV[at])
  last = last + 1
  local entry = {'seq', string.format('%.0f', last)}
  for i = at + 1, at + size do entry[#entry + 1] = ARGV[i] end
  local id = redis.call('XADD', KEYS[2], '*', unpack(entry))
  first_id = first_id or id
  at = at + size + 1
end
local count = last - tonumber(seq)
redis.call('HINCRBY', KEYS[1], 'seq', string.format('%.0f', count))
local done = string.format('%s %.0f %.0f %s %s', generation, tonumber(seq) + 1, last, total,
  first_id or '0-0')
if KEYS[3] then redis.call('SET', KEYS[3], done, 'EX', kept_s) end
return {'OK', done}
"""

# Whether an entry, if there is one, is at a position and tells of a change, told as JSON. After a
# fail-over another can have its number and its place. An entry may group digits.
_IS_OWN = """
local function is_own(entry, position, told)
  if not entry then return true end
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  for name, text in pairs(cjson.decode(told)) do
    local found = fields[name] or ''
    if name == 'nhs' or name == 'new' then found = string.gsub(found, '[ -]', '') end
    if found ~= text and name ~= 'recorded' then return false end
  end
  return entry[1] == position
end
"""


def _with_own(script: str) -> str:
    return _IS_OWN + script


# KEYS: snapshot, head, changes. ARGV: the new snapshot with its generation, seq and position; the
# change with that seq as JSON, {} if it is unknown; how many changes were folded into the snapshot.
# Entries are trimmed by how many are to stay rather than by id, which comes to the same where
# sequence numbers are dense, because XTRIM MINID of Redis 6.2.5 and before can empty a stream.
SNAPSHOT = _with_own("""
local generation, seq, header, register, links, position, last, folded = unpack(ARGV)
local old = cjson.decode(redis.call('HGET', KEYS[1], 'header') or '{}')
if old.generation ~= generation or redis.call('HGET', KEYS[2], 'generation') ~= generation then
  return 'OTHER_GENERATION'
end
if old.seq > tonumber(seq) then return 'NEWER' end
local own = redis.call('XREVRANGE', KEYS[3], position, '-', 'COUNT', 1)[1]
if not is_own(own, position, last) then return 'REWRITTEN' end
local since = #redis.call('XRANGE', KEYS[3], '(' .. position, '+')
redis.call('HSET', KEYS[1], 'header', header, 'register', register, 'links', links)
redis.call('XTRIM', KEYS[3], 'MAXLEN', '=', 1 + tonumber(folded) + since)
return 'OK'
""")

# KEYS: snapshot, head, changes, and where the new snapshot and changes are made ready, of which the
# first changes are there. ARGV: the new generation and its snapshot; how many first changes there
# are; generation, seq and position up to which the old one was folded, and the change with that
# seq, as above; how many changes since then may be carried over; for how many seconds lies ready
# what is never taken. A change that is carried gets a new number and a new id, and keeps the moment
# it was recorded.
LOAD = _with_own("""
local new, header, register, links, first, generation, seq, position, last, carried_max, staged_s =
  unpack(ARGV)
local head = redis.call('HMGET', KEYS[2], 'generation', 'seq')
local folded = tonumber(seq) or 0
if (head[1] or '') ~= generation then return 'MOVED' end
local since = {}
if generation ~= '' then
  local own = redis.call('XREVRANGE', KEYS[3], position, '-', 'COUNT', 1)[1]
  if not is_own(own, position, last) then return 'MOVED' end
  since = redis.call('XRANGE', KEYS[3], '(' .. position, '+', 'COUNT', carried_max + 1)
end
if #since > tonumber(carried_max) then return 'MOVED' end
if (tonumber(head[2]) or 0) > folded + #since then return 'MOVED' end
if redis.call('XLEN', KEYS[5]) ~= tonumber(first) then return 'MOVED' end
redis.call('PERSIST', KEYS[1])
redis.call('EXPIRE', KEYS[5], staged_s)
redis.call('HSET', KEYS[4], 'header', header, 'register', register, 'links', links)
redis.call('EXPIRE', KEYS[4], staged_s)
for n, old in ipairs(since) do
  local entry = {}
  local recorded = string.match(old[1], '^%d+')
  for i = 1, #old[2], 2 do
    local name, text = old[2][i], old[2][i + 1]
    if name == 'recorded' then
      local told = string.match(text, '^%d+$') and tonumber(text)
      if told and told < tonumber(recorded) then recorded = text end
    elseif name == 'seq' then
      if tonumber(text) ~= folded + n then return 'MOVED' end
    else
      entry[#entry + 1] = name
      entry[#entry + 1] = text
    end
  end
  redis.call('XADD', KEYS[5], '*', 'seq', string.format('%.0f', first + n), 'recorded', recorded,
    unpack(entry))
  redis.call('EXPIRE', KEYS[5], staged_s)
end
local none = first + #since == 0
if none then redis.call('DEL', KEYS[5]) end
redis.call('RENAME', KEYS[4], KEYS[1])
redis.call('PERSIST', KEYS[1])
if none then
  redis.call('DEL', KEYS[3])
else
  redis.call('RENAME', KEYS[5], KEYS[3])
  redis.call('PERSIST', KEYS[3])
end
redis.call('HSET', KEYS[2], 'generation', new, 'seq', string.format('%.0f', first + #since))
return 'OK'
""")
