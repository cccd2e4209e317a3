"""The circuit's state machine, as one script that Valkey runs: every worker sees the same, at one clock.

    closed     calls go; too many failures or slow calls among the window's, or some in a row that reached
               nobody, open it
    open       nobody calls until the cool-down is over, which grows each time it opens again soon
    half_open  the cool-down is over: one call at a time is let through; how that ends decides

The result of a call that began before the last change says nothing about the state after it.
"""

# KEYS: of the circuit.  ARGV: what to do, the time in ms (empty: the server's), the rules in the order of
# `circuit._rules`, and for `record` three for each result: ok | bad | gone | none, ms, age in ms since its
# call began.  `none` is no verdict: of a probe, another may follow.
SCRIPT = """
local what, now = ARGV[1], tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local window, minimum, rate = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local slow_ms, slow_rate = tonumber(ARGV[6]), tonumber(ARGV[7])
local cooldown, growth, most = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local unreachable, lease = tonumber(ARGV[11]), tonumber(ARGV[12])
local slots = 10
local stored = redis.call('GET', KEYS[1])
local c = stored and cjson.decode(stored)
  or {open = false, at = 0, till = 0, down = 0, opens = 0, probe = 0, held = 0, gone = 0, why = '', b = {}}

local function state()
  if not c.open then return 'closed' end
  return now >= c.till and 'half_open' or 'open'
end

local function sums()
  local calls, failures, slow, oldest = 0, 0, 0, math.floor(now * slots / window) - slots
  for slot, counts in pairs(c.b) do
    if tonumber(slot) > oldest then
      calls, failures, slow = calls + counts[1], failures + counts[2], slow + counts[3]
    else
      c.b[slot] = nil
    end
  end
  return calls, failures, slow
end

local function change(open, why)
  c.open, c.why, c.at, c.b, c.gone, c.probe, c.held = open, why, now, {}, 0, 0, 0
end

local function trip(why)
  if c.open or (c.opens > 0 and now - c.at < window) then c.opens = c.opens + 1 else c.opens = 1 end
  if not c.open then c.down = now end
  change(true, why)
  c.till = now + math.floor(math.min(cooldown * growth ^ math.min(c.opens - 1, 60), most))
end

local function record(verdict, ms, age)
  local began = now - age
  if began < c.at then return end
  local is = state()
  local slow = slow_ms >= 0 and ms >= slow_ms and verdict ~= 'gone'
  if is == 'half_open' and c.probe > 0 and began >= c.probe then
    if verdict == 'none' then c.probe, c.held = 0, 0
    elseif verdict ~= 'ok' or slow then trip('probe')
    else change(false, '') end
  elseif is == 'closed' and verdict ~= 'none' then
    local slot = string.format('%.0f', math.floor(now * slots / window))
    local counts = c.b[slot] or {0, 0, 0}
    c.b[slot] = {counts[1] + 1, counts[2] + (verdict == 'ok' and 0 or 1), counts[3] + (slow and 1 or 0)}
    c.gone = verdict == 'gone' and c.gone + 1 or 0
    local calls, failures, slows = sums()
    if c.gone >= unreachable then trip('unreachable')
    elseif calls >= minimum and failures >= rate * calls then trip('failures')
    elseif calls >= minimum and slows >= slow_rate * calls then trip('slow') end
  end
end

local allowed, changed = 1, false
if what == 'record' then
  for i = 13, #ARGV, 3 do record(ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])) end
  changed = true
elseif what == 'allow' then
  local is = state()
  if is == 'half_open' and now >= c.held then
    c.probe, c.held, changed = now, now + lease, true
  elseif is ~= 'closed' then
    allowed = 0
  end
elseif what == 'reset' then
  change(false, '')
  c.opens, changed = 0, true
end
local is, calls, failures, slows = state(), sums()
if changed then
  local kept = string.format('%.0f', 2 * (window + most + lease) + 3600000)
  redis.call('SET', KEYS[1], cjson.encode(c), 'PX', kept)
end
local wait = 0
if is == 'open' then wait = c.till - now elseif is == 'half_open' then wait = math.max(c.held - now, 0) end
return {is, allowed, wait, c.open and now - c.down or 0, c.why, c.opens, calls, failures, slows}
"""
