-- Hands out probes: those that came back first, then new ones.
--
-- KEYS[1] the prefix. ARGV: consumer, how many at most, for how many ms this worker waits for news
-- when it was given fewer (0: it does not), then regions.
-- Answers a list of {region, delivery, entries}.
local base, call = KEYS[1], redis.call
local consumer, left, idle = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local out = {}

for r = 4, #ARGV do
  local region = ARGV[r]
  local key, retry = base .. ':s:' .. region, base .. ':retry:' .. region
  while left > 0 do
    local id = call('SPOP', retry)
    if not id then break end
    local pending = redis.pcall('XPENDING', key, 'w', id, id, 1)
    -- One that was completed meanwhile is done.
    if not pending.err and pending[1] then
      local entries = call('XCLAIM', key, 'w', consumer, 0, id)
      if entries[1] then
        left = left - 1
        out[#out + 1] = { region, pending[1][4] + 1, entries }
      end
    end
  end
  if left > 0 then
    local function read()
      return redis.pcall('XREADGROUP', 'GROUP', 'w', consumer, 'COUNT', left, 'STREAMS', key, '>')
    end
    local answer = read()
    if answer and answer.err and string.sub(answer.err, 1, 7) == 'NOGROUP' then
      redis.pcall('XGROUP', 'CREATE', key, 'w', '0', 'MKSTREAM')
      answer = read()
    end
    local entries = answer and not answer.err and answer[1] and answer[1][2] or {}
    if #entries > 0 then
      out[#out + 1] = { region, 1, entries }
      left = left - #entries
    end
  end
  if left > 0 and idle > 0 then
    call('SET', base .. ':idle:p:' .. region, 1, 'PX', idle)
  end
end
return out
