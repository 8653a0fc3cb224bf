-- What nobody else does for a region: brings back probes whose lease ran out, finds those that can
-- only become results, forgets those that are done.
--
-- KEYS[1] the prefix. ARGV: region, now in us, the lease's margin in ms, consumer, how many probes to
-- answer at most, 1 when consumers of dead processes are to be forgotten too.
-- Answers a list of {id, deliveries, payload}: expired, poisonous or unreadable ones.
local base, call, pcall = KEYS[1], redis.call, redis.pcall
local region, now_us, margin = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local consumer, room, tidy = ARGV[4], tonumber(ARGV[5]), ARGV[6] == '1'
local key, retry = base .. ':s:' .. region, base .. ':retry:' .. region
local out, woken = {}, false

-- The payload of an entry, its start-by in us and its timeout in ms; nothing of one that is not ours.
local function read(entry)
  local payload = entry[2][2]
  if type(payload) ~= 'string' or #payload < 30 then return payload end
  return payload, struct.unpack('>i8', payload, 2), struct.unpack('>I4', payload, 10)
end

local function again(id)
  call('SADD', retry, id)
  woken = true
end

local function overdue()
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
              out[#out + 1] = { id, deliveries, payload }
              room = room - 1
            else
              again(id)
            end
          end
        end
      end
    end
    if #pending < 100 then return end
    from = '(' .. pending[100][1]
  end
end

local function delivered()
  for _, group in ipairs(call('XINFO', 'GROUPS', key)) do
    local of = {}
    for i = 1, #group, 2 do of[group[i]] = group[i + 1] end
    if of['name'] == 'w' then return of['last-delivered-id'] end
  end
end

-- Probes that no worker takes: those too old to begin are taken off the head of the stream, and with
-- them those that lie between, which go to whoever comes.
local function unread()
  local old = 0
  for i, entry in ipairs(call('XRANGE', key, '(' .. delivered(), '+', 'COUNT', 100)) do
    local _, start_by = read(entry)
    if not start_by or start_by < now_us then old = i end
  end
  old = math.min(old, room)
  if old == 0 then return end
  local taken = call('XREADGROUP', 'GROUP', 'w', consumer, 'COUNT', old, 'STREAMS', key, '>')
  for _, entry in ipairs(taken and taken[1][2] or {}) do
    local payload, start_by = read(entry)
    if not start_by or start_by < now_us then
      out[#out + 1] = { entry[1], 0, payload }
      room = room - 1
    else
      call('XCLAIM', key, 'w', consumer, 0, entry[1], 'RETRYCOUNT', 0, 'JUSTID')
      again(entry[1])
    end
  end
end

if call('EXISTS', key) == 0 then return out end
if pcall('XPENDING', key, 'w').err then pcall('XGROUP', 'CREATE', key, 'w', '0') end
overdue()
unread()
-- All that was handed out and is no longer with anybody is done.
local oldest = call('XPENDING', key, 'w')[2]
if not oldest then
  local millis, sequence = string.match(delivered(), '^(%d+)-(%d+)$')
  oldest = string.format('%s-%.0f', millis, sequence + 1)
end
call('XTRIM', key, 'MINID', oldest)
if tidy then
  for _, name in ipairs(call('XINFO', 'CONSUMERS', key)) do
    local of = {}
    for i = 1, #name, 2 do of[name[i]] = name[i + 1] end
    if of['pending'] == 0 and of['idle'] > 600000 then call('XGROUP', 'DELCONSUMER', key, 'w', of['name']) end
  end
end
if woken then call('PUBLISH', base .. ':wake', 'p:' .. region) end
return out
