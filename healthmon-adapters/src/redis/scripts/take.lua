-- Hands out probes, in bundles.
--
-- KEYS[1] the prefix. ARGV: consumer, how many at most, probes in a bundle at most, for how many ms
-- this worker waits for news when it was given fewer (0: it does not), then regions.
-- Answers a list of {region, entries}; the last bundle may have more than fit.
local base, call = KEYS[1], redis.call
local consumer, left, size, idle = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local out, taken, done, strange = {}, 0, 0, 0

-- Of those that came back some may have been completed meanwhile, by a worker whose lease had run out.
local function not_completed(region, bundle, mask)
  for place = 0, 15 do
    if bit.band(mask, 2 ^ place) ~= 0 then
      local name = string.sub(bundle, 23 + 25 * place, 39 + 25 * place)
      if call('SISMEMBER', late_of(region, name), name) == 1 then
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
      local mask = mask_of(fields)
      if not mask then
        -- Handed out as one, to be given up: a mask of nothing says so.
        fields[3], fields[4] = 'm', '0'
        mask, strange = 1, strange + 1
      elseif (tonumber(fields[6]) or 0) > 0 then
        mask = not_completed(region, fields[2], mask)
        fields[4] = text(mask)
      end
      if mask == 0 then
        call('XACK', key, 'w', id)
        call('XDEL', key, id)
      else
        local probes = ones(mask)
        taken, left = taken + probes, left - probes
        wanted[#wanted + 1] = entry
        marks[#marks + 1], marks[#marks + 2] = id, text(mask)
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
