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

-- What is done of bundles of one region, many of them together: a command costs more than what it does here.
local done = 0
local function settle(region, of)
  local key, with = base .. ':s:' .. region, base .. ':with:' .. region
  local had, gone, left = call('HMGET', with, unpack(of.ids)), {}, {}
  for n, id in ipairs(of.ids) do
    local before = tonumber(had[n] or nil)
    if before then
      local rest = bit.band(before, bit.bnot(of.places[n]))
      if rest == 0 then
        gone[#gone + 1] = id
      elseif rest ~= before then
        left[#left + 1], left[#left + 2] = id, text(rest)
      end
      done = done + ones(before - rest)
    else
      -- The lease has run out: they may be on the stream again, and need not be handed out for that.
      local named = of.named[n]
      for i = 1, #named / 17 do
        local name = string.sub(named, 17 * i - 16, 17 * i)
        local late = late_of(region, name)
        call('SADD', late, name)
        call('EXPIRE', late, 600)
      end
    end
  end
  if #left > 0 then call('HSET', with, unpack(left)) end
  if #gone > 0 then
    call('XACK', key, 'w', unpack(gone))
    call('XDEL', key, unpack(gone))
    call('HDEL', with, unpack(gone))
  end
end

local region, of
while at <= #ARGV do
  local next = arg()
  if next ~= region or #of.ids >= 1000 then
    if region then settle(region, of) end
    region, of = next, { ids = {}, places = {}, named = {} }
  end
  local n = #of.ids + 1
  of.ids[n], of.places[n], of.named[n] = arg(), tonumber(arg()), arg()
end
if region then settle(region, of) end
if done > 0 then
  call('HINCRBY', base .. ':count', 'probes', -done)
  call('HINCRBY', base .. ':count', 'flight', -done)
end
return done
