-- Stores results, then acknowledges their probes.
--
-- KEYS[1] the prefix. ARGV: poisonous payloads (kept, the newest thousand) and each of them; streams with
-- results, and of each its number, its results, bundles, and each bundle; then entries until the end:
-- region, id, 1 when all of its probes are done now, and the names of those that are, 17 bytes each.
local base, call, at = KEYS[1], redis.call, 1
local function arg()
  at = at + 1
  return ARGV[at - 1]
end

for _ = 1, tonumber(arg()) do
  call('XADD', base .. ':poison', 'MAXLEN', '~', 1000, '*', 'p', arg())
end
local stored, news = 0, {}
for _ = 1, tonumber(arg()) do
  local stream, results, bundles = arg(), tonumber(arg()), tonumber(arg())
  local key = base .. ':r:' .. stream
  news[#news + 1] = stream
  for _ = 1, bundles do call('XADD', key, '*', 'r', arg()) end
  stored = stored + results
end
if stored > 0 then
  call('SADD', base .. ':news', unpack(news))
  call('HINCRBY', base .. ':count', 'results', stored)
  if call('DEL', base .. ':idle:r') == 1 then
    call('PUBLISH', base .. ':wake', 'r')
  end
end
local done, last = 0, #ARGV
while at <= last do
  local region, id, all, named = arg(), arg(), arg(), arg()
  local names, acked = {}, 0
  if all == '1' then
    acked = redis.pcall('XACK', base .. ':s:' .. region, 'w', id)
    if type(acked) ~= 'number' then acked = 0 end
    if acked == 1 then done = done + #named / 17 end
  end
  -- The rest of the bundle is to be done still; or the lease ran out, and they may be on the stream again.
  if acked == 0 and #named > 0 then
    for i = 1, #named / 17 do names[i] = string.sub(named, 17 * i - 16, 17 * i) end
    local bucket = string.format('%.0f', math.floor(struct.unpack('>i8', named) / 30000))
    local key = base .. ':done:' .. region .. ':' .. bucket
    local added = call('SADD', key, unpack(names))
    call('EXPIRE', key, 65)
    if all == '0' then done = done + added end
  end
end
if done > 0 then
  call('HINCRBY', base .. ':count', 'probes', -done)
  call('HINCRBY', base .. ':count', 'flight', -done)
end
return done
