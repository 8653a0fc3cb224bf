-- How full the queue is. Sets right what is counted where it can be known.
--
-- KEYS[1] the prefix. ARGV: streams of results.
-- Answers {waiting, in flight, results, slot of the oldest waiting probe in ms, time of the oldest
-- result in ms, the server's time in ms}; '' for what there is not.
local base, call, pcall = KEYS[1], redis.call, redis.pcall
local streams, flight, back, idle, oldest = tonumber(ARGV[1]), 0, 0, true, nil

local function delivered(key)
  local groups = pcall('XINFO', 'GROUPS', key)
  for _, group in ipairs(groups.err and {} or groups) do
    local of = {}
    for i = 1, #group, 2 do of[group[i]] = group[i + 1] end
    if of['name'] == 'w' then return of['last-delivered-id'] end
  end
  return '0-0'
end

for _, region in ipairs(call('SMEMBERS', base .. ':regions')) do
  local key = base .. ':s:' .. region
  back = back + call('SCARD', base .. ':retry:' .. region)
  local pending = pcall('XPENDING', key, 'w')
  if not pending.err then flight = flight + pending[1] end
  -- They lie nearly in the order of their slots.
  for _, entry in ipairs(call('XRANGE', key, '(' .. delivered(key), '+', 'COUNT', 100)) do
    idle = false
    local payload = entry[2][2]
    if type(payload) == 'string' and #payload >= 30 then
      local slot = struct.unpack('>i8', payload, 14)
      if not oldest or slot < oldest then oldest = slot end
    end
  end
end
local results, first = 0, nil
for stream = 0, streams - 1 do
  local key = base .. ':r:' .. stream
  local length = call('XLEN', key)
  if length > 0 then
    results = results + length
    local entry = call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    local came = entry and tonumber(string.match(entry[1], '^%d+'))
    if came and (not first or came < first) then first = came end
  end
end
local count = base .. ':count'
local probes = tonumber(call('HGET', count, 'probes') or 0)
if idle and probes ~= flight then
  call('HSET', count, 'probes', flight)
  probes = flight
end
if tonumber(call('HGET', count, 'results') or 0) ~= results then call('HSET', count, 'results', results) end
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function text(number) return number and string.format('%.0f', number) or '' end
return { math.max(0, probes - flight) + back, math.max(0, flight - back), results, text(oldest), text(first), text(now) }
