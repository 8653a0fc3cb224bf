-- What nobody else does for a region: puts probes back whose lease ran out, finds those that nobody
-- took in time, forgets those that are done.
--
-- KEYS[1] the prefix. ARGV: region, now in us, the lease's margin in ms, consumer, how many bundles to
-- answer at most, 1 when consumers of dead processes are to be forgotten too.
-- Answers a list of {id, how many times it was handed out, bundle}: with expired or unreadable probes, and
-- with others that have gone back.
local base, call, pcall = KEYS[1], redis.call, redis.pcall
local region, now_us, margin = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local consumer, room, tidy = ARGV[4], tonumber(ARGV[5]), ARGV[6] == '1'
local key, out, back, taken = base .. ':s:' .. region, {}, 0, 0

-- A bundle, how many probes, the first start-by in us, the longest timeout in ms, and how many times it
-- was handed out before; only the first of one that is not ours.
local function read(entry)
  local bundle, before = entry[2][2], tonumber(entry[2][4]) or 0
  if entry[2][1] ~= 'b' or type(bundle) ~= 'string' or #bundle < 22 then return bundle or '' end
  local probes, start_by, timeout = struct.unpack('>I2i8I4', bundle)
  return bundle, probes, start_by, timeout, before
end

-- Puts probes of a bundle back on the stream, each by itself: those that are not done, of a bundle whose
-- worker is gone; those that may be begun still, of one that was waiting. Answers whether it was all of them.
local function split(bundle, probes, before, gone)
  local place, rest = 23, 0
  for _ = 1, probes do
    if place + 3 > #bundle then return false end
    local length = struct.unpack('>I4', bundle, place)
    local payload = string.sub(bundle, place + 4, place + 3 + length)
    if #payload < 30 then return false end
    local name, wanted = string.sub(payload, 14, 30), true
    if gone then
      local bucket = string.format('%.0f', math.floor(struct.unpack('>i8', name) / 30000))
      wanted = call('SISMEMBER', base .. ':done:' .. region .. ':' .. bucket, name) == 0
    else
      wanted = struct.unpack('>i8', payload, 2) >= now_us
    end
    if wanted then
      local head = struct.pack('>I2', 1) .. string.sub(payload, 2, 13) .. string.sub(name, 1, 8)
      call('XADD', key, '*', 'b', head .. string.sub(bundle, place, place + 3 + length), 'd', before)
      back = back + 1
    else
      rest = rest + 1
    end
    place = place + 4 + length
  end
  return rest == 0
end

local function overdue()
  local from = '-'
  for _ = 1, 20 do
    local pending = call('XPENDING', key, 'w', 'IDLE', margin, from, '+', 100)
    for _, of in ipairs(pending) do
      local id, idle = of[1], of[3]
      local entry = call('XRANGE', key, id, id)[1]
      if not entry then
        call('XACK', key, 'w', id)
      else
        local bundle, probes, _, timeout, before = read(entry)
        if not probes then
          if room > 0 then
            call('XCLAIM', key, 'w', consumer, 0, id, 'JUSTID')
            out[#out + 1] = { id, 0, bundle }
            room = room - 1
          end
        elseif idle >= timeout + margin then
          split(bundle, probes, before + 1, true)
          call('XACK', key, 'w', id)
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

-- Probes that no worker takes: bundles with some too old to begin are taken off the head of the stream,
-- and with them those that lie between. What may be begun still goes back.
local function unread()
  local old = 0
  for i, entry in ipairs(call('XRANGE', key, '(' .. delivered(), '+', 'COUNT', 100)) do
    local _, _, start_by = read(entry)
    if not start_by or start_by < now_us then old = i end
  end
  old = math.min(old, room)
  if old == 0 then return end
  local answer = call('XREADGROUP', 'GROUP', 'w', consumer, 'COUNT', old, 'STREAMS', key, '>')
  for _, entry in ipairs(answer and answer[1][2] or {}) do
    local bundle, probes, _, _, before = read(entry)
    taken = taken + (probes or 0)
    if probes and split(bundle, probes, before, false) then
      call('XACK', key, 'w', entry[1])
    else
      out[#out + 1] = { entry[1], before or 0, bundle }
      room = room - 1
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
if taken ~= back then call('HINCRBY', base .. ':count', 'flight', taken - back) end
if back > 0 then call('PUBLISH', base .. ':wake', 'p:' .. region) end
return out
