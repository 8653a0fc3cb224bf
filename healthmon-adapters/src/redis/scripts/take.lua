-- Hands out probes, in bundles.
--
-- KEYS[1] the prefix. ARGV: consumer, how many at most, probes in a bundle at most, for how many ms
-- this worker waits for news when it was given fewer (0: it does not), then regions.
-- Answers a list of {region, entries}; the last bundle may have more than fit.
local base, call = KEYS[1], redis.call
local consumer, left, size, idle = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local out, taken, done = {}, 0, 0

local function completed(region, name)
  local bucket = string.format('%.0f', math.floor(struct.unpack('>i8', name) / 30000))
  return call('SISMEMBER', base .. ':done:' .. region .. ':' .. bucket, name) == 1
end

for r = 5, #ARGV do
  local region = ARGV[r]
  local key = base .. ':s:' .. region
  while left > 0 do
    local some = math.max(1, math.floor(left / size))
    local function read()
      return redis.pcall('XREADGROUP', 'GROUP', 'w', consumer, 'COUNT', some, 'STREAMS', key, '>')
    end
    local answer = read()
    if answer and answer.err and string.sub(answer.err, 1, 7) == 'NOGROUP' then
      redis.pcall('XGROUP', 'CREATE', key, 'w', '0', 'MKSTREAM')
      answer = read()
    end
    local entries, wanted = answer and not answer.err and answer[1] and answer[1][2] or {}, {}
    for _, entry in ipairs(entries) do
      local fields, probes = entry[2], 0
      if fields[1] == 'b' and #fields[2] >= 22 then probes = struct.unpack('>I2', fields[2]) end
      -- One that came back may have been completed meanwhile.
      if fields[3] == 'd' and completed(region, string.sub(fields[2], 40, 56)) then
        call('XACK', key, 'w', entry[1])
        done = done + probes
      else
        taken, left = taken + probes, left - probes
        wanted[#wanted + 1] = entry
      end
    end
    if #wanted > 0 then out[#out + 1] = { region, wanted } end
    if #entries < some then break end
  end
  if left > 0 and idle > 0 then
    call('SET', base .. ':idle:p:' .. region, 1, 'PX', idle)
  end
end
if taken > 0 then call('HINCRBY', base .. ':count', 'flight', taken) end
if done > 0 then call('HINCRBY', base .. ':count', 'probes', -done) end
return out
