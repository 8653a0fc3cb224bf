-- What scripts know of bundles of probes; it stands before each that looks into them. A bundle begins with 22
-- bytes, of which the first two say how many probes it has; then come rows of 25: the name in 17 (slot,
-- service, kind) and the start-by in 8. Which of its probes are meant is a mask, with a bit for each.

-- How many probes a mask means.
local function ones(mask)
  local count = 0
  while mask > 0 do
    mask = bit.band(mask, mask - 1)
    count = count + 1
  end
  return count
end

-- A whole number as a text: Lua's own way has an exponent from 10^14 on.
local function text(number) return string.format('%.0f', number) end

-- The mask of an entry with these fields; nothing of one that nobody of ours has put there.
local function mask_of(fields)
  local bundle = fields[2]
  if fields[1] ~= 'b' or type(bundle) ~= 'string' or #bundle <= 22 then return end
  local probes = struct.unpack('>I2', bundle)
  if probes < 1 or probes > 16 or #bundle <= 22 + 25 * probes then return end
  if not fields[3] then return 2 ^ probes - 1 end
  local mask = fields[3] == 'm' and tonumber(fields[4])
  if mask and mask >= 1 and mask < 2 ^ probes and mask % 1 == 0 then return mask end
end

-- The set of probes of this region that were completed after their lease had run out.
local function late_of(region, name)
  return KEYS[1] .. ':late:' .. region .. ':' .. text(math.floor(struct.unpack('>i8', name) / 30000))
end

