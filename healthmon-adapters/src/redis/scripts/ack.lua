-- Forgets results that are recorded.
--
-- KEYS[1] the prefix. ARGV: the recorder, then of each part: stream, 'upto' or 'only'.
-- 'upto', an id, how many results: forgets all before the id, and only for the stream's owner: it was given
-- all of it, and acknowledges so many of them now.
-- 'only', how many, and of each `<stream>:<id>:<place in its bundle>`: notes that these are done, for
-- anybody: rare, of acknowledgements out of order or by another node.
local base, call, at, gone = KEYS[1], redis.call, 2, 0
local function before(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  if a_ms ~= b_ms then return a_ms < b_ms end
  return tonumber(a_seq) < tonumber(b_seq)
end
while at <= #ARGV do
  local stream, how = ARGV[at], ARGV[at + 1]
  if how == 'upto' then
    local upto = ARGV[at + 2]
    if call('HGET', base .. ':owners', stream) == ARGV[1] then
      -- When it is said twice, there is nothing the second time.
      if call('XTRIM', base .. ':r:' .. stream, 'MINID', upto) > 0 then gone = gone + tonumber(ARGV[at + 3]) end
      if call('EXISTS', base .. ':acked') == 1 then
        for _, part in ipairs(call('SMEMBERS', base .. ':acked')) do
          local of, id = string.match(part, '^(%d+):(%d+%-%d+):')
          if of == stream and before(id, upto) then call('SREM', base .. ':acked', part) end
        end
      end
    end
    at = at + 4
  else
    local parts = tonumber(ARGV[at + 2])
    for i = at + 3, at + 2 + parts do
      local id = string.match(ARGV[i], '^%d+:(%d+%-%d+):')
      -- Of what is gone nothing is to be noted.
      if #call('XRANGE', base .. ':r:' .. stream, id, id) == 1 then
        gone = gone + call('SADD', base .. ':acked', ARGV[i])
      end
    end
    at = at + 3 + parts
  end
end
if gone > 0 then call('HINCRBY', base .. ':count', 'results', -gone) end
return gone
