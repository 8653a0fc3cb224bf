-- What nobody else does for a region: puts probes back whose lease ran out, finds those that nobody
-- took in time, forgets those that are done.
--
-- KEYS[1] the prefix. ARGV: region, now in us, the lease's margin in ms, consumer, how many bundles to
-- answer at most, 1 when consumers of dead processes are to be forgotten too, and from where to look for
-- leases that ran out.
-- Answers {1 if there is more to do at once, from where to look for leases the next time, a list of {id, how
-- many times it was handed out, bundle, a bit for each of its probes that is to be given up}}: of expired or
-- unreadable ones.
local base, call, pcall = KEYS[1], redis.call, redis.pcall
local region, now_us, margin = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local consumer, room, tidy, from = ARGV[4], tonumber(ARGV[5]), ARGV[6] == '1', ARGV[7]
local key, with = base .. ':s:' .. region, base .. ':with:' .. region
local out, back, taken, strange, more = {}, 0, 0, 0, 0

-- A bundle, a bit for each of its probes, the first start-by in us, the timeout in ms, and how many times it
-- was handed out before; only the first of one that is not ours.
local function read(entry)
  local fields = entry[2]
  local bundle, mask = fields[2], mask_of(fields)
  if not mask then return bundle or '' end
  local _, start_by, timeout = struct.unpack('>I2i8I4', bundle)
  if fields[3] then
    -- The others of the bundle may be long over.
    start_by = nil
    for place = 0, 15 do
      if bit.band(mask, 2 ^ place) ~= 0 then
        local own = struct.unpack('>i8', bundle, 40 + 25 * place)
        if not start_by or own < start_by then start_by = own end
      end
    end
  end
  return bundle, mask, start_by, timeout, tonumber(fields[6]) or 0
end

local function forget(id)
  call('XACK', key, 'w', id)
  call('XDEL', key, id)
  call('HDEL', with, id)
end

local function put_back(bundle, mask, before)
  call('XADD', key, '*', 'b', bundle, 'm', text(mask), 'd', before)
  back = back + ones(mask)
end

-- A mask of nothing: it cannot be read, and counts as one.
local function give_up(id, before, bundle, mask)
  call('HSET', with, id, text(math.max(mask, 1)))
  out[#out + 1] = { id, before, bundle, mask }
  room = room - 1
end

local function overdue()
  for _ = 1, 20 do
    local pending = call('XPENDING', key, 'w', 'IDLE', margin, from, '+', 100)
    for _, of in ipairs(pending) do
      local id, idle = of[1], of[3]
      local entry = call('XRANGE', key, id, id)[1]
      if not entry then
        forget(id)
      else
        local bundle, mask, _, timeout, before = read(entry)
        if not mask then
          if room > 0 then
            call('XCLAIM', key, 'w', consumer, 0, id, 'JUSTID')
            give_up(id, 0, bundle, 0)
          end
        elseif idle >= timeout + margin then
          -- Each by itself: one that ended its worker does not take the same others with it wherever it goes.
          mask = tonumber(call('HGET', with, id) or mask)
          for place = 0, 15 do
            local one = bit.band(mask, 2 ^ place)
            if one ~= 0 then put_back(bundle, one, before + 1) end
          end
          forget(id)
        end
      end
    end
    if #pending < 100 then
      from = '-'
      return
    end
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
  if old > room then more = 1 end
  old = math.min(old, room)
  if old == 0 then return end
  local answer = call('XREADGROUP', 'GROUP', 'w', consumer, 'COUNT', old, 'STREAMS', key, '>')
  for _, entry in ipairs(answer and answer[1][2] or {}) do
    local bundle, mask, _, _, before = read(entry)
    if not mask then
      taken, strange = taken + 1, strange + 1
      give_up(entry[1], 0, bundle, 0)
    else
      taken = taken + ones(mask)
      local late = 0
      for place = 0, 15 do
        local one = bit.band(mask, 2 ^ place)
        if one ~= 0 and struct.unpack('>i8', bundle, 40 + 25 * place) < now_us then late = late + one end
      end
      if mask > late then put_back(bundle, mask - late, before) end
      if late > 0 then give_up(entry[1], before, bundle, late) else forget(entry[1]) end
    end
  end
end

if call('EXISTS', key) == 0 then return { 0, '-', out } end
if pcall('XPENDING', key, 'w').err then pcall('XGROUP', 'CREATE', key, 'w', '0') end
overdue()
unread()
if tidy then
  for _, name in ipairs(call('XINFO', 'CONSUMERS', key)) do
    local of = {}
    for i = 1, #name, 2 do of[name[i]] = name[i + 1] end
    if of['pending'] == 0 and of['idle'] > 600000 then call('XGROUP', 'DELCONSUMER', key, 'w', of['name']) end
  end
end
if strange > 0 then call('HINCRBY', base .. ':count', 'probes', strange) end
if taken ~= back then call('HINCRBY', base .. ':count', 'flight', taken - back) end
if back > 0 then call('PUBLISH', base .. ':wake', 'p:' .. region) end
if room == 0 then more = 1 end
return { more, from, out }
