-- Puts probes on their regions' streams: all of a call, or none when it would not fit.
--
-- KEYS[1] the prefix. ARGV: capacity, probes in all, claims, then (shard, epoch) of each claim, then
-- bundles until the end: region, bucket of slots, the claim of each probe in two bytes (0 for none), the
-- name of each in 17, and the bundle. A bundle whose probes are all new goes in as it is.
local base, at, call = KEYS[1], 1, redis.call
local function arg()
  at = at + 1
  return ARGV[at - 1]
end

local capacity, total, claims = tonumber(arg()), tonumber(arg()), tonumber(arg())
local count = base .. ':count'
local held = call('HMGET', count, 'probes', 'results')
if math.max(0, tonumber(held[1] or 0)) + math.max(0, tonumber(held[2] or 0)) + total > capacity then
  return -1
end

-- Epochs are compared as text: a number of Lua's holds 53 bits of the 64.
local function older(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local stale, any = {}, false
for from = 1, claims, 1000 do
  local shards, epochs, newest, risen = {}, {}, {}, {}
  for claim = 1, math.min(1000, claims - from + 1) do shards[claim], epochs[claim] = arg(), arg() end
  local known = call('HMGET', base .. ':epochs', unpack(shards))
  for claim, shard in ipairs(shards) do
    local before = newest[shard] or known[claim]
    if before and not older(before, epochs[claim]) then
      newest[shard] = before
    else
      newest[shard], risen[shard] = epochs[claim], true
    end
  end
  for shard in pairs(risen) do call('HSET', base .. ':epochs', shard, newest[shard]) end
  for claim, shard in ipairs(shards) do
    if older(epochs[claim], newest[shard]) then stale[from + claim - 1], any = true, true end
  end
end

-- The bundle of some of a bundle's probes: a head of 22 bytes, of which the first two say how many there
-- are, then of each probe its length in four bytes and its bytes.
local function only(bundle, wanted, some)
  local parts, place = { struct.pack('>I2', some), string.sub(bundle, 3, 22) }, 23
  for i = 1, #wanted do
    local length = 4 + struct.unpack('>I4', bundle, place)
    if wanted[i] then parts[#parts + 1] = string.sub(bundle, place, place + length - 1) end
    place = place + length
  end
  return table.concat(parts)
end

local accepted, fenced, last, failed, news = 0, 0, #ARGV, nil, {}
while at <= last do
  local region, bucket, claimed, named, bundle = arg(), arg(), arg(), arg(), arg()
  local seen, names, probes = base .. ':seen:' .. region .. ':' .. bucket, {}, #named / 17
  for i = 1, probes do names[i] = string.sub(named, 17 * i - 16, 17 * i) end
  local known, wanted, here, fresh = call('SMISMEMBER', seen, unpack(names)), {}, {}, {}
  for i = 1, probes do
    local name = names[i]
    if any and stale[struct.unpack('>I2', claimed, 2 * i - 1)] then
      fenced = fenced + 1
    elseif known[i] == 0 and not here[name] then
      wanted[i], here[name], fresh[#fresh + 1] = true, true, name
    end
    wanted[i] = wanted[i] or false
  end
  if #fresh > 0 then
    if #fresh < probes then bundle = only(bundle, wanted, #fresh) end
    local added = redis.pcall('XADD', base .. ':s:' .. region, '*', 'b', bundle)
    if type(added) == 'table' then
      -- Nothing we know of. What is in stays in, and is a repeat when the caller tries again.
      failed = added
      break
    end
    call('SADD', seen, unpack(fresh))
    call('EXPIRE', seen, 65)
    accepted = accepted + #fresh
    news[region] = true
  end
end
for region in pairs(news) do
  call('SADD', base .. ':regions', region)
  if call('DEL', base .. ':idle:p:' .. region) == 1 then
    call('PUBLISH', base .. ':wake', 'p:' .. region)
  end
end
if accepted > 0 then call('HINCRBY', count, 'probes', accepted) end
if failed then return failed end
return { accepted, total - accepted - fenced, fenced }
