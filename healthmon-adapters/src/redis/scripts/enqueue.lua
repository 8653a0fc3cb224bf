-- Puts probes on their streams: all of a call, or none when it would not fit.
--
-- KEYS[1] the prefix. ARGV: capacity, probes in all, claims, then (shard, epoch) of each claim,
-- then groups until the end: region, stream ('' for the extra one), claim (0 for none), probes,
-- and of each probe its id and its payload. A probe of the extra stream has its dedup name for id.
local base, at = KEYS[1], 1
local call = redis.call
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
local stale, seen = {}, {}
for claim = 1, claims do
  local shard, epoch = arg(), arg()
  local newest = call('HGET', base .. ':epochs', shard)
  if not newest or older(newest, epoch) then
    call('HSET', base .. ':epochs', shard, epoch)
  end
  seen[claim] = { shard, epoch }
end
for claim, of in ipairs(seen) do
  stale[claim] = older(of[2], call('HGET', base .. ':epochs', of[1]))
end

local accepted, fenced = 0, 0

-- The extra stream: ids are Redis's own, repeats are known by name until well after their start-by.
local function extra(region, name, payload)
  local forget = math.floor(struct.unpack('>i8', payload, 2) / 1000) + 60000
  if call('ZADD', base .. ':seen:' .. region, 'NX', forget, name) == 0 then
    return false
  end
  call('XADD', base .. ':x:' .. region, '*', 'p', payload)
  return true
end

local last, ready, failed = #ARGV, {}, nil
while at <= last and not failed do
  local region, stream, claim, probes = arg(), arg(), tonumber(arg()), tonumber(arg())
  local added, added_extra = 0, 0
  if stale[claim] then
    fenced = fenced + probes
    at = at + 2 * probes
  elseif stream == '' then
    for _ = 1, probes do
      if extra(region, arg(), arg()) then added_extra = added_extra + 1 end
    end
  else
    local key = base .. ':s:' .. region .. ':' .. stream
    for i = at, at + 2 * probes - 2, 2 do
      local id = ARGV[i]
      local answer = redis.pcall('XADD', key, id, 'p', ARGV[i + 1])
      if type(answer) ~= 'table' then
        added = added + 1
      elseif not string.find(answer.err, 'equal or smaller', 1, true) then
        -- Nothing we know of. What is in stays in, and is a repeat when the caller tries again.
        failed = answer
        break
      elseif #call('XRANGE', key, id, id) == 0 and extra(region, id .. '-0', ARGV[i + 1]) then
        -- Later slots of other services came first: it is late, and no repeat.
        added_extra = added_extra + 1
      end
    end
    at = at + 2 * probes
  end
  if added + added_extra > 0 then
    local marks = ready[region] or {}
    ready[region] = marks
    if added > 0 then marks[#marks + 1] = 's:' .. region .. ':' .. stream end
    if added_extra > 0 then marks[#marks + 1] = 'x:' .. region end
    accepted = accepted + added + added_extra
  end
end
for region, marks in pairs(ready) do
  for from = 1, #marks, 1000 do
    call('SADD', base .. ':ready:' .. region, unpack(marks, from, math.min(from + 999, #marks)))
  end
  call('SADD', base .. ':regions', region)
  if call('DEL', base .. ':idle:p:' .. region) == 1 then
    call('PUBLISH', base .. ':wake', 'p:' .. region)
  end
end
if accepted > 0 then call('HINCRBY', count, 'probes', accepted) end
if failed then return failed end
return { accepted, total - accepted - fenced, fenced }
