-- Hands results to a recorder, of the streams that are its own.
--
-- KEYS[1] the prefix. ARGV: the recorder, its lease in ms, streams, how many results at most, for how
-- many ms it waits for news when it was given fewer (0: it does not), the stream to begin with, 1 to
-- look into every stream of its own rather than those marked to have news, then of each stream of which
-- it holds unacknowledged results: its number, and the last id it was given.
-- Answers {streams of those that it has lost, or has anew; acknowledged parts; {stream, entries} ...}; the
-- last bundles may have more than fit.
local base, call = KEYS[1], redis.call
local me, lease, streams, left = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local idle, first, every = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local recorders, owners = base .. ':recorders', base .. ':owners'

local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
call('ZREMRANGEBYSCORE', recorders, '-inf', now)
-- A moment more than the lease: the clock's fraction was cut.
call('ZADD', recorders, string.format('%.0f', now + 1 + lease), me)
local live, lively = {}, 0
for _, name in ipairs(call('ZRANGE', recorders, 0, -1)) do
  live[name] = true
  lively = lively + 1
end
local owner = {}
local owned = call('HGETALL', owners)
for i = 1, #owned, 2 do owner[tonumber(owned[i])] = owned[i + 1] end
local held = {}
for i = 8, #ARGV, 2 do held[tonumber(ARGV[i])] = ARGV[i + 1] end

-- Its share; what nobody has is taken up to that.
local share, mine, own, look = math.ceil(streams / lively), 0, {}, {}
for stream = 0, streams - 1 do
  if owner[stream] == me then
    own[stream] = true
    look[stream] = every
    mine = mine + 1
  end
end
local lost = {}
for i = 8, #ARGV, 2 do
  if not own[tonumber(ARGV[i])] then
    lost[#lost + 1] = tonumber(ARGV[i])
    held[tonumber(ARGV[i])] = nil
  end
end
for n = 0, streams - 1 do
  if mine >= share then break end
  local stream = (first + n) % streams
  if not own[stream] and not live[owner[stream] or ''] then
    call('HSET', owners, stream, me)
    own[stream], look[stream] = true, true
    mine = mine + 1
  end
end
-- What is beyond its share it gives up, of streams of which it holds nothing: empty ones first.
if mine > share then
  for _, any in ipairs({ false, true }) do
    for stream = 0, streams - 1 do
      if mine <= share then break end
      if own[stream] and not held[stream] and (any or call('XLEN', base .. ':r:' .. stream) == 0) then
        call('HDEL', owners, stream)
        own[stream] = nil
        mine = mine - 1
      end
    end
  end
end

local news = base .. ':news'
for _, stream in ipairs(call('SMEMBERS', news)) do look[tonumber(stream)] = true end
-- Some of a bundle's results may be acknowledged, and others not.
local acked = {}
if call('EXISTS', base .. ':acked') == 1 then acked = call('SMEMBERS', base .. ':acked') end
local out, read, unread = { lost, acked }, {}, {}
for n = 0, streams - 1 do
  local stream = (first + n) % streams
  if own[stream] and look[stream] then
    local entries, some = {}, math.max(1, math.ceil(left / 8))
    if left > 0 then
      local from = held[stream] and '(' .. held[stream] or '-'
      entries = call('XRANGE', base .. ':r:' .. stream, from, '+', 'COUNT', some)
      if #entries > 0 then out[#out + 1] = { stream, entries } end
    end
    -- The mark goes when all was read; whoever has the stream next looks without it.
    local marks = left > 0 and #entries < some and read or unread
    marks[#marks + 1] = stream
    for _, entry in ipairs(entries) do
      local bundle = entry[2][2]
      left = left - (entry[2][1] == 'r' and #bundle >= 2 and struct.unpack('>I2', bundle) or 1)
    end
  end
end
if #read > 0 then call('SREM', news, unpack(read)) end
if #unread > 0 then call('SADD', news, unpack(unread)) end
if #out == 2 and idle > 0 then call('SET', base .. ':idle:r', 1, 'PX', idle) end
return out
