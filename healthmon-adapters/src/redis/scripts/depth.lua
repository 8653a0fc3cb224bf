-- How full the queue is. Sets right what is counted where it can be known.
--
-- KEYS[1] the prefix. ARGV: streams of results.
-- Answers {waiting, in flight, results, slot of the oldest waiting probe in ms, time of the oldest
-- result in ms, the server's time in ms}; '' for what there is not.
local base, call, pcall = KEYS[1], redis.call, redis.pcall
local streams, pending, unread, oldest = tonumber(ARGV[1]), 0, false, nil

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
  local with_workers = pcall('XPENDING', key, 'w')
  if not with_workers.err then pending = pending + with_workers[1] end
  -- They lie nearly in the order of their slots.
  for _, entry in ipairs(call('XRANGE', key, '(' .. delivered(key), '+', 'COUNT', 100)) do
    unread = true
    local bundle = entry[2][2]
    if entry[2][1] == 'b' and #bundle >= 22 then
      local slot = struct.unpack('>i8', bundle, 15)
      if not oldest or slot < oldest then oldest = slot end
    end
  end
end
local empty, first = true, nil
for stream = 0, streams - 1 do
  local entry = call('XRANGE', base .. ':r:' .. stream, '-', '+', 'COUNT', 1)[1]
  if entry then
    empty = false
    local came = tonumber(string.match(entry[1], '^%d+'))
    if not first or came < first then first = came end
  end
end
local count = base .. ':count'
local held = call('HMGET', count, 'probes', 'flight', 'results')
local probes, flight, results = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
local function set(field, before, now)
  if before ~= now then call('HSET', count, field, now) end
  return now
end
if pending == 0 then flight = set('flight', flight, 0) end
if not unread then probes = set('probes', probes, math.max(0, flight)) end
if empty then results = set('results', results, 0) end
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function text(number) return number and string.format('%.0f', number) or '' end
return {
  math.max(0, probes - flight), math.max(0, flight), math.max(0, results), text(oldest), text(first), text(now),
}
