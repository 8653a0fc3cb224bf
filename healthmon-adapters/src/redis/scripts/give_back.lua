-- Puts probes back that were handed out and that nobody has begun.
--
-- KEYS[1] the prefix. ARGV: of each bundle until the end: region, id, a bit for each of its probes that
-- are given back, and how many times they were handed out before.
local base, call, back = KEYS[1], redis.call, 0
for at = 1, #ARGV, 4 do
  local region, id, places, before = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  local key, with = base .. ':s:' .. region, base .. ':with:' .. region
  -- Of one whose lease has run out others have taken care.
  local had = tonumber(call('HGET', with, id) or nil)
  local entry = had and call('XRANGE', key, id, id)[1]
  if entry then
    local rest = bit.band(had, bit.bnot(places))
    local given = had - rest
    if given > 0 then
      call('XADD', key, '*', 'b', entry[2][2], 'm', text(given), 'd', before)
      back = back + ones(given)
      call('PUBLISH', base .. ':wake', 'p:' .. region)
    end
    if rest == 0 then
      call('XACK', key, 'w', id)
      call('XDEL', key, id)
      call('HDEL', with, id)
    else
      call('HSET', with, id, text(rest))
    end
  end
end
if back > 0 then call('HINCRBY', base .. ':count', 'flight', -back) end
return back
