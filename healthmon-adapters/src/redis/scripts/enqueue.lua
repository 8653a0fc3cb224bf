-- Puts probes on their regions' streams: all of a call, or none when it would not fit.
--
-- KEYS[1] the prefix. ARGV: capacity, probes in all, claims, then (shard, epoch) of each claim, then
-- groups until the end: region, bucket of slots, probes (1,000 at most), and of each probe its claim (0
-- for none) and its payload.
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
    if older(epochs[claim], newest[shard]) then stale[tostring(from + claim - 1)], any = true, true end
  end
end

local accepted, fenced, last, failed, news = 0, 0, #ARGV, nil, {}
while at <= last and not failed do
  local region, bucket, probes = arg(), arg(), tonumber(arg())
  local names, payloads = {}, {}
  for i = at, at + 2 * probes - 2, 2 do
    if any and stale[ARGV[i]] then
      fenced = fenced + 1
    else
      payloads[#payloads + 1] = ARGV[i + 1]
      -- Slot, service and kind, as they lie in the payload.
      names[#names + 1] = string.sub(ARGV[i + 1], 14, 30)
    end
  end
  at = at + 2 * probes
  if #names > 0 then
    local key, seen = base .. ':s:' .. region, base .. ':seen:' .. region .. ':' .. bucket
    local fresh, here = {}, {}
    for i, known in ipairs(call('SMISMEMBER', seen, unpack(names))) do
      local name = names[i]
      if known == 0 and not here[name] then
        local added = redis.pcall('XADD', key, '*', 'p', payloads[i])
        if type(added) == 'table' then
          -- Nothing we know of. What is in stays in, and is a repeat when the caller tries again.
          failed = added
          break
        end
        here[name] = true
        fresh[#fresh + 1] = name
      end
    end
    if #fresh > 0 then
      call('SADD', seen, unpack(fresh))
      call('EXPIRE', seen, 65)
      accepted = accepted + #fresh
      news[region] = true
    end
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
