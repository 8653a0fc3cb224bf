-- Puts probes back that were handed out and that nobody has begun, each as a bundle of its own.
--
-- KEYS[1] the prefix. ARGV: entries until the end: region, id, 1 when all of its probes are done with or
-- given back, how many times they were handed out before, how many probes, and the bundle of each.
local base, call, at, back = KEYS[1], redis.call, 1, 0
while at <= #ARGV do
  local region, id, all, before, probes = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local key = base .. ':s:' .. region
  at = at + 5
  -- Of one whose lease has run out others have taken care.
  if #call('XPENDING', key, 'w', id, id, 1) > 0 then
    for i = at, at + probes - 1 do call('XADD', key, '*', 'b', ARGV[i], 'd', before) end
    if all == '1' then call('XACK', key, 'w', id) end
    back = back + probes
    call('PUBLISH', base .. ':wake', 'p:' .. region)
  end
  at = at + probes
end
if back > 0 then call('HINCRBY', base .. ':count', 'flight', -back) end
return back
