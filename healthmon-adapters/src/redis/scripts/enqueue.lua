-- Puts probes on their regions' streams: all of a call, or none when it would not fit.
--
-- KEYS[1] the prefix. ARGV: capacity, probes in all, shard and epoch of each claim in 2 and 8 bytes, then
-- bundles until the end: region, bucket of slots, the claim of each probe in two bytes (0 for none), and
-- the bundle.
local base, at, call = KEYS[1], 1, redis.call
local function arg()
  at = at + 1
  return ARGV[at - 1]
end

local capacity, total, claims = tonumber(arg()), tonumber(arg()), arg()
local count = base .. ':count'
local held = call('HMGET', count, 'probes', 'results')
if math.max(0, tonumber(held[1] or 0)) + math.max(0, tonumber(held[2] or 0)) + total > capacity then
  return -1
end

-- The newest epoch of each shard, 8 bytes each. In halves: a number of Lua's holds 53 bits of the 64.
local epochs = base .. ':epochs'
local none = string.rep('\0', 8)
local function older(a, b)
  local a_high, a_low = struct.unpack('>I4I4', #a < 8 and none or a)
  local b_high, b_low = struct.unpack('>I4I4', #b < 8 and none or b)
  return a_high < b_high or a_high == b_high and a_low < b_low
end
local newest, risen, stale, any = #claims > 0 and call('GET', epochs) or '', false, {}, false
local function claim(number)
  local shard = struct.unpack('>I2', claims, 10 * number - 9)
  return shard, string.sub(claims, 10 * number - 7, 10 * number), string.sub(newest, 8 * shard + 1, 8 * shard + 8)
end
for number = 1, #claims / 10 do
  local shard, epoch, known = claim(number)
  -- Of two claims of one shard in a call either may come first.
  if known ~= epoch and older(call('GETRANGE', epochs, 8 * shard, 8 * shard + 7), epoch) then
    call('SETRANGE', epochs, 8 * shard, epoch)
    risen = true
  end
end
if risen then newest = call('GET', epochs) end
for number = 1, #claims / 10 do
  local _, epoch, known = claim(number)
  if known ~= epoch and older(epoch, known) then stale[number], any = true, true end
end

-- All names of one set together: a command costs more than what it does here. No more of them than Lua
-- lets through.
local function in_pieces(list, do_with)
  for from = 1, #list, 1000 do do_with(unpack(list, from, math.min(#list, from + 999))) end
end

local bundles, sets = {}, {}
while at <= #ARGV do
  local region, bucket, claimed, bundle = arg(), arg(), arg(), arg()
  local seen = base .. ':seen:' .. region .. ':' .. bucket
  local set = sets[seen] or { names = {}, known = {}, fresh = {}, here = {} }
  sets[seen] = set
  local names, from = set.names, #set.names
  for i = 1, #claimed / 2 do names[from + i] = string.sub(bundle, 25 * i - 2, 25 * i + 14) end
  bundles[#bundles + 1] = { region = region, claimed = claimed, bundle = bundle, set = set, from = from }
end
for seen, set in pairs(sets) do
  in_pieces(set.names, function(...)
    for _, known in ipairs(call('SMISMEMBER', seen, ...)) do set.known[#set.known + 1] = known end
  end)
end

local accepted, fenced, failed, news = 0, 0, nil, {}
for _, of in ipairs(bundles) do
  local set, probes, mask, count = of.set, #of.claimed / 2, 0, 0
  for i = 1, probes do
    local name = set.names[of.from + i]
    if any and stale[struct.unpack('>I2', of.claimed, 2 * i - 1)] then
      fenced = fenced + 1
    elseif set.known[of.from + i] == 0 and not set.here[name] then
      mask, count, set.here[name] = mask + 2 ^ (i - 1), count + 1, true
    end
  end
  if count > 0 then
    local key, added = base .. ':s:' .. of.region
    if count == probes then
      added = redis.pcall('XADD', key, '*', 'b', of.bundle)
    else
      -- The others lie in it as well, and are not meant.
      added = redis.pcall('XADD', key, '*', 'b', of.bundle, 'm', string.format('%.0f', mask), 'd', 0)
    end
    if type(added) == 'table' and added.err then
      -- Nothing we know of. What is in stays in, and is a repeat when the caller tries again.
      failed = added
      break
    end
    for i = 1, probes do
      if bit.band(mask, 2 ^ (i - 1)) ~= 0 then set.fresh[#set.fresh + 1] = set.names[of.from + i] end
    end
    accepted = accepted + count
    news[of.region] = true
  end
end
for seen, set in pairs(sets) do
  if #set.fresh > 0 then
    in_pieces(set.fresh, function(...) call('SADD', seen, ...) end)
    call('EXPIRE', seen, 65)
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
