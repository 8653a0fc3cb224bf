-- Stores results, then acknowledges their probes.
--
-- KEYS[1] the prefix. ARGV: poisonous payloads (kept, the newest thousand) and each of them, streams
-- with results, of each its number, how many, and each; then, until the end, regions with probes
-- that are done: its name, how many, and their ids.
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
  local stream, results = arg(), tonumber(arg())
  local key = base .. ':r:' .. stream
  news[#news + 1] = stream
  for i = at, at + results - 1 do
    call('XADD', key, '*', 'r', ARGV[i])
  end
  at = at + results
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
  local key, probes = base .. ':s:' .. arg(), tonumber(arg())
  -- What Lua unpacks at once is limited.
  while probes > 0 do
    local some = math.min(probes, 1000)
    local acked = redis.pcall('XACK', key, 'w', unpack(ARGV, at, at + some - 1))
    if type(acked) == 'number' then done = done + acked end
    at, probes = at + some, probes - some
  end
end
if done > 0 then call('HINCRBY', base .. ':count', 'probes', -done) end
return done
