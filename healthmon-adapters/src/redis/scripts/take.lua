-- Hands out probes: those that came back first, then new ones.
--
-- KEYS[1] the prefix. ARGV: consumer, how many at most, for how many ms this worker waits for news
-- when it was given fewer (0: it does not), then regions.
-- Answers a list of {region, stream, delivery, entries}.
local base, call = KEYS[1], redis.call
local consumer, left, idle = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local out = {}

for r = 4, #ARGV do
  local region = ARGV[r]
  local ready, retry = base .. ':ready:' .. region, base .. ':retry:' .. region
  while left > 0 do
    local item = call('SPOP', retry)
    if not item then break end
    local stream, id = string.match(item, '^(.*)|(.*)$')
    local key = base .. ':' .. stream
    local pending = redis.pcall('XPENDING', key, 'w', id, id, 1)
    -- One that was completed meanwhile is done.
    if not pending.err and pending[1] then
      local entries = call('XCLAIM', key, 'w', consumer, 0, id)
      if entries[1] then
        left = left - 1
        out[#out + 1] = { region, stream, pending[1][4] + 1, entries }
      end
    end
  end
  while left > 0 do
    local streams = call('SRANDMEMBER', ready, math.min(left, 128))
    if #streams == 0 then break end
    local drained = {}
    for _, stream in ipairs(streams) do
      if left == 0 then break end
      local key = base .. ':' .. stream
      local answer = redis.pcall('XREADGROUP', 'GROUP', 'w', consumer, 'COUNT', left, 'STREAMS', key, '>')
      if answer and answer.err and string.sub(answer.err, 1, 7) == 'NOGROUP' then
        redis.pcall('XGROUP', 'CREATE', key, 'w', '0', 'MKSTREAM')
        answer = redis.pcall('XREADGROUP', 'GROUP', 'w', consumer, 'COUNT', left, 'STREAMS', key, '>')
      end
      local entries = answer and not answer.err and answer[1] and answer[1][2] or {}
      if #entries > 0 then
        out[#out + 1] = { region, stream, 1, entries }
      end
      if #entries < left then drained[#drained + 1] = stream end
      left = left - #entries
    end
    if #drained > 0 then call('SREM', ready, unpack(drained)) end
  end
  if left > 0 and idle > 0 then
    call('SET', base .. ':idle:p:' .. region, 1, 'PX', idle)
  end
end
return out
