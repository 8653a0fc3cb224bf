-- What nobody else does for a region: brings back probes whose lease ran out, finds those that can
-- only become results, forgets what is beyond every start-by.
--
-- KEYS[1] the prefix. ARGV: region, shards, now in ms and in us, the lease's margin in ms, consumer,
-- how many probes to answer at most, 1 when consumers of dead processes are to be forgotten too.
-- Answers a list of {stream, id, deliveries, payload}: expired, poisonous or unreadable ones.
local base, call, pcall = KEYS[1], redis.call, redis.pcall
local region, shards, now_ms, now_us = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local margin, consumer, room, tidy = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), ARGV[8] == '1'
local ready, retry = base .. ':ready:' .. region, base .. ':retry:' .. region
local out, woken = {}, false

local function millis(id) return tonumber(string.match(id, '^%d+')) end

-- The payload of an entry, its start-by in us and its timeout in ms; nothing of one that is not ours.
local function read(entry)
  local payload = entry[2][2]
  if type(payload) ~= 'string' or #payload < 30 then return payload end
  return payload, struct.unpack('>i8', payload, 2), struct.unpack('>I4', payload, 18)
end

local function again(stream, id)
  call('SADD', retry, stream .. '|' .. id)
  woken = true
end

local function overdue(key, stream)
  local from = '-'
  for _ = 1, 20 do
    local pending = call('XPENDING', key, 'w', 'IDLE', margin, from, '+', 100)
    for _, of in ipairs(pending) do
      local id, idle, deliveries = of[1], of[3], of[4]
      local entry = call('XRANGE', key, id, id)[1]
      if not entry then
        if call('XACK', key, 'w', id) == 1 then call('HINCRBY', base .. ':count', 'probes', -1) end
      else
        local payload, start_by, timeout = read(entry)
        if not timeout or idle >= timeout + margin then
          local ends = not start_by or start_by < now_us or deliveries >= 3
          if not ends or room > 0 then
            -- It is the sweeper's for a lease; the hand-outs stay counted.
            call('XCLAIM', key, 'w', consumer, 0, id, 'JUSTID')
            if ends then
              out[#out + 1] = { stream, id, deliveries, payload }
              room = room - 1
            else
              again(stream, id)
            end
          end
        end
      end
    end
    if #pending < 100 then return end
    from = '(' .. pending[100][1]
  end
end

-- Probes that no worker takes: those too old to begin are taken off the head of the stream, and with
-- them those that lie between, which go to whoever comes.
local function unread(key, stream, delivered)
  local head = call('XRANGE', key, '(' .. delivered, '+', 'COUNT', 100)
  local old = 0
  for i, entry in ipairs(head) do
    local _, start_by = read(entry)
    if not start_by or start_by < now_us then old = i end
  end
  old = math.min(old, room)
  if old == 0 then return end
  local taken = call('XREADGROUP', 'GROUP', 'w', consumer, 'COUNT', old, 'STREAMS', key, '>')
  for _, entry in ipairs(taken and taken[1][2] or {}) do
    local payload, start_by = read(entry)
    if not start_by or start_by < now_us then
      out[#out + 1] = { stream, entry[1], 0, payload }
      room = room - 1
    else
      call('XCLAIM', key, 'w', consumer, 0, entry[1], 'RETRYCOUNT', 0, 'JUSTID')
      again(stream, entry[1])
    end
  end
end

local function delivered(key)
  for _, group in ipairs(call('XINFO', 'GROUPS', key)) do
    local of = {}
    for i = 1, #group, 2 do of[group[i]] = group[i + 1] end
    if of['name'] == 'w' then return of['last-delivered-id'] end
  end
end

for shard = 0, shards do
  local stream = shard == shards and 'x:' .. region or 's:' .. region .. ':' .. shard
  local key = base .. ':' .. stream
  local waits = call('SISMEMBER', ready, stream) == 1
  local pending = pcall('XPENDING', key, 'w')
  if pending.err and waits then
    pcall('XGROUP', 'CREATE', key, 'w', '0', 'MKSTREAM')
    pending = pcall('XPENDING', key, 'w')
  end
  if not pending.err then
    if pending[1] > 0 then overdue(key, stream) end
    -- What waits behind the last one handed out, and what is with workers, is not forgotten.
    local keep = now_ms - 61000
    if pending[1] > 0 then keep = math.min(keep, millis(pending[2])) end
    if waits then
      local place = delivered(key)
      keep = math.min(keep, millis(place))
      unread(key, stream, place)
    end
    if keep > 0 then call('XTRIM', key, 'MINID', string.format('%.0f', keep)) end
    if tidy then
      for _, name in ipairs(call('XINFO', 'CONSUMERS', key)) do
        local of = {}
        for i = 1, #name, 2 do of[name[i]] = name[i + 1] end
        if of['pending'] == 0 and of['idle'] > 600000 then call('XGROUP', 'DELCONSUMER', key, 'w', of['name']) end
      end
    end
  end
end
call('ZREMRANGEBYSCORE', base .. ':seen:' .. region, '-inf', now_ms)
if woken then call('PUBLISH', base .. ':wake', 'p:' .. region) end
return out
