-- Gives up a recorder's streams.
--
-- KEYS[1] the prefix. ARGV: the recorder.
local base, call = KEYS[1], redis.call
local owned, had = call('HGETALL', base .. ':owners'), false
for i = 1, #owned, 2 do
  if owned[i + 1] == ARGV[1] then
    call('HDEL', base .. ':owners', owned[i])
    had = true
  end
end
call('ZREM', base .. ':recorders', ARGV[1])
if had then call('PUBLISH', base .. ':wake', 'r') end
return 0
