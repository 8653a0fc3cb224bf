-- Stores results, then acknowledges their probes.
--
-- KEYS[1] the prefix. ARGV: poisonous bundles (kept, the newest thousand) and each of them; streams with
-- results, and of each its number, its results, bundles, and each bundle; then of each bundle of probes until
-- the end: region, id, a bit for each of its probes that are done, and the names of those, 17 bytes each.
local base, call, at = KEYS[1], redis.call, 1
local function arg()
  at = at + 1
  return ARGV[at - 1]
end

for _ = 1, tonumber(arg()) do
  call('XADD', base .. ':poison', 'MAXLEN', '~', 1000, '*', 'b', arg())
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

local function ones(mask)
  local count = 0
  while mask > 0 do
    mask = bit.band(mask, mask - 1)
    count = count + 1
  end
  return count
end

local done, last = 0, #ARGV
while at <= last do
  local region, id, places, named = arg(), arg(), tonumber(arg()), arg()
  local key, with = base .. ':s:' .. region, base .. ':with:' .. region
  local had = tonumber(call('HGET', with, id) or nil)
  if had then
    local rest = bit.band(had, bit.bnot(places))
    if rest == 0 then
      call('XACK', key, 'w', id)
      call('XDEL', key, id)
      call('HDEL', with, id)
    elseif rest ~= had then
      call('HSET', with, id, string.format('%.0f', rest))
    end
    done = done + ones(had - rest)
  else
    -- The lease has run out: they may be on the stream again, and need not be handed out for that.
    for i = 1, #named / 17 do
      local name = string.sub(named, 17 * i - 16, 17 * i)
      local late = base .. ':late:' .. region .. ':'
        .. string.format('%.0f', math.floor(struct.unpack('>i8', name) / 30000))
      call('SADD', late, name)
      call('EXPIRE', late, 600)
    end
  end
end
if done > 0 then
  call('HINCRBY', base .. ':count', 'probes', -done)
  call('HINCRBY', base .. ':count', 'flight', -done)
end
return done
