-- Makes probes available that were handed to a call that is gone: as if they had not been.
--
-- KEYS[1] the prefix. ARGV: consumer, then (region, id, delivery) of each.
local base, call = KEYS[1], redis.call
for i = 2, #ARGV, 3 do
  local region, id, delivery = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = base .. ':s:' .. region
  local answer = redis.pcall('XCLAIM', key, 'w', ARGV[1], 0, id, 'RETRYCOUNT', delivery - 1, 'JUSTID')
  if not answer.err and #answer > 0 then
    call('SADD', base .. ':retry:' .. region, id)
    call('PUBLISH', base .. ':wake', 'p:' .. region)
  end
end
return 0
