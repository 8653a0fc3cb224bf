-- Forgets results that are recorded.
--
-- KEYS[1] the prefix. ARGV: the recorder, then of each part: stream, 'upto' or 'only', how many ids, the ids.
-- 'upto' forgets everything before the id, and only for the stream's owner: it was given all of it.
-- 'only' forgets these ids, for anybody: rare, of acknowledgements out of order or by another node.
local base, call, at, gone = KEYS[1], redis.call, 2, 0
while at <= #ARGV do
  local stream, how, ids = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local key = base .. ':r:' .. stream
  if how == 'upto' then
    if call('HGET', base .. ':owners', stream) == ARGV[1] then
      gone = gone + call('XTRIM', key, 'MINID', ARGV[at + 3])
    end
  else
    for i = at + 3, at + 2 + ids do gone = gone + call('XDEL', key, ARGV[i]) end
  end
  at = at + 3 + ids
end
if gone > 0 then call('HINCRBY', base .. ':count', 'results', -gone) end
return gone
