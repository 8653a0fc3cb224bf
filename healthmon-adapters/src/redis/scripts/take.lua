-- Hands out probes, in bundles.
--
-- KEYS[1] the prefix. ARGV: consumer, how many at most, probes in a bundle at most, for how many ms
-- this worker waits for news when it was given fewer (0: it does not), then regions.
-- Answers a list of {region, entries}; the last bundle may have more than fit.
local base, call = KEYS[1], redis.call
local consumer, left, size, idle = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local out, taken, done, strange = {}, 0, 0, 0

local function ones(mask)
  local count = 0
  while mask > 0 do
    mask = bit.band(mask, mask - 1)
    count = count + 1
  end
  return count
end

-- How many probes an entry is, and a bit for each of them; nothing of one that nobody of ours has put there.
local function read(fields)
  local bundle = fields[2]
  if fields[1] ~= 'b' or #bundle <= 22 then return end
  local probes = struct.unpack('>I2', bundle)
  if probes < 1 or probes > 16 or #bundle <= 22 + 25 * probes then return end
  if not fields[3] then return probes, 2 ^ probes - 1 end
  local mask = fields[3] == 'm' and tonumber(fields[4])
  if mask and mask >= 1 and mask < 2 ^ probes and mask % 1 == 0 then return ones(mask), mask end
end

-- Of those that came back some may have been completed meanwhile, by a worker whose lease had run out.
local function not_completed(region, bundle, mask)
  for place = 0, 15 do
    if bit.band(mask, 2 ^ place) ~= 0 then
      local name = string.sub(bundle, 23 + 25 * place, 39 + 25 * place)
      local bucket = string.format('%.0f', math.floor(struct.unpack('>i8', name) / 30000))
      if call('SISMEMBER', base .. ':late:' .. region .. ':' .. bucket, name) == 1 then
        mask = mask - 2 ^ place
        done = done + 1
      end
    end
  end
  return mask
end

for r = 5, #ARGV do
  local region = ARGV[r]
  local key, with = base .. ':s:' .. region, base .. ':with:' .. region
  while left > 0 do
    local some = math.max(1, math.floor(left / size))
    local function get()
      return redis.pcall('XREADGROUP', 'GROUP', 'w', consumer, 'COUNT', some, 'STREAMS', key, '>')
    end
    local answer = get()
    if answer and answer.err and string.sub(answer.err, 1, 7) == 'NOGROUP' then
      redis.pcall('XGROUP', 'CREATE', key, 'w', '0', 'MKSTREAM')
      answer = get()
    end
    local entries, wanted, marks = answer and not answer.err and answer[1] and answer[1][2] or {}, {}, {}
    for _, entry in ipairs(entries) do
      local id, fields = entry[1], entry[2]
      local probes, mask = read(fields)
      if not probes then
        -- Handed out as one, to be given up: a mask of nothing says so.
        fields[3], fields[4] = 'm', '0'
        probes, mask, strange = 1, 1, strange + 1
      elseif (tonumber(fields[6]) or 0) > 0 then
        local rest = not_completed(region, fields[2], mask)
        if rest ~= mask then
          mask, probes = rest, ones(rest)
          fields[3], fields[4] = 'm', string.format('%.0f', rest)
        end
      end
      if mask == 0 then
        call('XACK', key, 'w', id)
        call('XDEL', key, id)
      else
        taken, left = taken + probes, left - probes
        wanted[#wanted + 1] = entry
        marks[#marks + 1], marks[#marks + 2] = id, string.format('%.0f', mask)
      end
    end
    if #wanted > 0 then
      call('HSET', with, unpack(marks))
      out[#out + 1] = { region, wanted }
    end
    if #entries < some then break end
  end
  if left > 0 and idle > 0 then
    call('SET', base .. ':idle:p:' .. region, 1, 'PX', idle)
  end
end
if taken > 0 then call('HINCRBY', base .. ':count', 'flight', taken) end
if done ~= strange then call('HINCRBY', base .. ':count', 'probes', strange - done) end
return out
