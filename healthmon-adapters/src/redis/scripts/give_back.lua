-- Makes probes available that were handed to a call that is gone: as if they had not been.
--
-- KEYS[1] the prefix. ARGV: consumer, then (region, stream, id, delivery) of each.
local base, call = KEYS[1], redis.call
for i = 2, #ARGV, 4 do
  local region, stream, id, delivery = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local answer = redis.pcall('XCLAIM', base .. ':' .. stream, 'w', ARGV[1], 0, id, 'RETRYCOUNT', delivery - 1, 'JUSTID')
  if not answer.err and #answer > 0 then
    call('SADD', base .. ':retry:' .. region, stream .. '|' .. id)
    call('PUBLISH', base .. ':wake', 'p:' .. region)
  end
end
return 0
