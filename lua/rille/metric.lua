-- metric: rille.metric, counters, gauges and histograms of scripts. Each Lua state stores into cells of its own, in memory of the core
-- (core/metric.h), which whoever reads adds up; so counting is one store, whatever other loops do.

local ffi = require "ffi"

local C = require "rille.core"
local errors = require "rille.errors"
local misuse = require "rille.misuse"

local type, tostring, select = type, tostring, select
local huge = math.huge
local text = errors.text

local err_box = ffi.new("int[1]")
local TYPES = { counter = C.RILLE_METRIC_COUNTER, gauge = C.RILLE_METRIC_GAUGE, histogram = C.RILLE_METRIC_HISTOGRAM }
-- seconds, as for requests
local BUCKETS = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10 }

local Counter, Gauge, Histogram = {}, {}, {}
local known = {} -- by name; a metric has one object in this state

-- What stands for this state in the core. It is given back when the state is closed.
local writer

local function need_writer()
  if writer then return writer end
  local p = C.rille_metric_writer_new()
  if p == nil then return nil end
  writer = ffi.gc(p, C.rille_metric_writer_free)
  return writer
end

-- ---- cells -----------------------------------------------------------------------------------------------------

local VALUE_TYPES = { string = true, number = true, boolean = true }

-- Label values as the core wants them.
local function joined(self, what, ...)
  local count = select("#", ...)
  if count ~= self._label_count then
    misuse("%s:%s: got %d label values, expected %d (%s)", self.name, what, count, self._label_count, table.concat(self._labels, ", "))
  end
  local parts = {}
  for i = 1, count do
    local value = select(i, ...)
    if not VALUE_TYPES[type(value)] then
      misuse("%s:%s: label '%s' is a %s, expected a string, number or boolean", self.name, what, self._labels[i], type(value))
    end
    parts[i] = tostring(value):gsub("%z", ""):sub(1, C.RILLE_METRIC_VALUE_MAX) .. "\0"
  end
  return table.concat(parts)
end

local function make_cell(self, what, ...)
  local values = joined(self, what, ...)
  local cell = self._by_values[values]
  if cell then return cell end
  local w = need_writer()
  if not w then return nil, "no memory" end
  cell = C.rille_metric_cell(self._p, w, values, #values, err_box)
  if cell == nil then return nil, text[-err_box[0]] end
  self._by_values[values] = cell
  return cell
end

-- The cell for label values, which are looked up one after the other. nil, err: "full", "no memory".
local function cell_of(self, what, a, b, ...)
  if self._label_count == 1 and b == nil and a ~= nil then
    local cell = self._first[a]
    if cell then return cell end
    local err
    cell, err = make_cell(self, what, a)
    if cell then self._first[a] = cell end
    return cell, err
  end
  if b ~= nil and select("#", ...) == 0 and self._label_count == 2 then
    local row = self._first[a]
    local cell = row and row[b]
    if cell then return cell end
    local err
    cell, err = make_cell(self, what, a, b)
    if cell then
      row = row or {}
      row[b] = cell
      self._first[a] = row
    end
    return cell, err
  end
  if b ~= nil or select("#", ...) > 0 then return make_cell(self, what, a, b, ...) end
  if a ~= nil then return make_cell(self, what, a) end
  return make_cell(self, what)
end

local function need_number(self, what, n)
  if type(n) ~= "number" or n ~= n or n == huge or n == -huge then
    misuse("%s:%s: expected a finite number, got %s", self.name, what, tostring(n))
  end
end

-- ---- counters and gauges ---------------------------------------------------------------------------------------

-- One more, or n more. True; nil, err: "full" (too many label values), and nothing is counted; "no memory".
function Counter:inc(n, ...)
  if n == nil then n = 1 end
  if type(n) ~= "number" or not (n >= 0 and n < huge) then
    misuse("%s:inc: a counter goes up only: expected a number from 0, got %s", self.name, tostring(n))
  end
  local cell, err = self._cell
  if not cell or select("#", ...) > 0 then
    cell, err = cell_of(self, "inc", ...)
    if not cell then return nil, err end
  end
  cell[0] = cell[0] + n
  return true
end

function Gauge:set(n, ...)
  need_number(self, "set", n)
  local cell, err = self._cell
  if not cell or select("#", ...) > 0 then
    cell, err = cell_of(self, "set", ...)
    if not cell then return nil, err end
  end
  cell[0] = n
  return true
end

local function add(self, what, n, ...)
  need_number(self, what, n)
  local cell, err = self._cell
  if not cell or select("#", ...) > 0 then
    cell, err = cell_of(self, what, ...)
    if not cell then return nil, err end
  end
  cell[0] = cell[0] + n
  return true
end

function Gauge:inc(n, ...)
  return add(self, "inc", n == nil and 1 or n, ...)
end

function Gauge:dec(n, ...)
  if n == nil then n = 1 end
  need_number(self, "dec", n)
  return add(self, "dec", -n, ...)
end

-- ---- histograms ------------------------------------------------------------------------------------------------

function Histogram:observe(v, ...)
  need_number(self, "observe", v)
  local cell, err = self._cell
  if not cell or select("#", ...) > 0 then
    cell, err = cell_of(self, "observe", ...)
    if not cell then return nil, err end
  end
  local bounds, count = self._bounds, self._bound_count
  local i = 0
  while i < count and v > bounds[i] do i = i + 1 end
  cell[0] = cell[0] + v
  cell[i + 1] = cell[i + 1] + 1
  return true
end

-- ---- reading ---------------------------------------------------------------------------------------------------

-- What all states have counted: the value; of a histogram how many were observed, and their sum.
local function value(self, ...)
  local values = joined(self, "value", ...)
  if self.type ~= "histogram" then return C.rille_metric_read(self._p, values, #values, 0) end
  local count = 0
  for i = 1, self._bound_count + 1 do count = count + C.rille_metric_read(self._p, values, #values, i) end
  return count, C.rille_metric_read(self._p, values, #values, 0)
end

-- The same metric with these label values given.
local function with(self, ...)
  local cell, err = make_cell(self, "with", ...)
  if not cell then return nil, err end
  local values = { ... }
  return setmetatable({
    _cell = cell, name = self.name, type = self.type, _p = self._p, _label_count = 0, _labels = {}, _bounds = self._bounds,
    _bound_count = self._bound_count, value = function() return value(self, unpack(values)) end,
  }, getmetatable(self))
end

for name, class in pairs { counter = Counter, gauge = Gauge, histogram = Histogram } do
  class.__index = class
  class.value, class.with = value, with
  class.__tostring = function(self) return ("%s %s"):format(name, self.name) end
end

-- ---- making ----------------------------------------------------------------------------------------------------

local function check_name(kind, name)
  if type(name) ~= "string" then misuse("bad argument #1 to 'metric.%s' (string expected, got %s)", kind, type(name)) end
  if #name > C.RILLE_METRIC_NAME_MAX or not name:find("^[%a_:][%w_:]*$") then
    misuse("rille.metric.%s: bad name %q: letters, digits, _ and :, at most %d, not a digit first", kind, name, C.RILLE_METRIC_NAME_MAX)
  end
  if name:find("^rille_") then misuse("rille.metric.%s: bad name %q: rille_ is for the statistics of Rille itself", kind, name) end
end

local function check_labels(kind, labels)
  if type(labels) ~= "table" then misuse("rille.metric.%s: labels is a list of names, not a %s", kind, type(labels)) end
  if #labels > C.RILLE_METRIC_LABELS_MAX then
    misuse("rille.metric.%s: %d labels; at most %d", kind, #labels, C.RILLE_METRIC_LABELS_MAX)
  end
  local seen = {}
  for _, label in ipairs(labels) do
    if type(label) ~= "string" or #label > 64 or not label:find("^[%a_][%w_]*$") or label:find("^__")
      or seen[label] or (kind == "histogram" and label == "le") then
      misuse("rille.metric.%s: bad label %s: letters, digits and _, each once; no __ first, no le of a histogram", kind,
        tostring(label))
    end
    seen[label] = true
  end
end

local function check_buckets(buckets)
  if type(buckets) ~= "table" or #buckets < 1 or #buckets > C.RILLE_METRIC_BUCKETS_MAX then
    misuse("rille.metric.histogram: buckets is a list of 1 to %d rising numbers", C.RILLE_METRIC_BUCKETS_MAX)
  end
  for i, bound in ipairs(buckets) do
    if type(bound) ~= "number" or bound ~= bound or bound == huge or (i > 1 and bound <= buckets[i - 1]) then
      misuse("rille.metric.histogram: buckets is a list of 1 to %d rising numbers; number %d is %s", C.RILLE_METRIC_BUCKETS_MAX, i,
        tostring(bound))
    end
  end
end

local OPTIONS = { help = true, labels = true }

local function check_options(kind, options)
  if type(options) ~= "table" then misuse("bad argument #2 to 'metric.%s' (table expected, got %s)", kind, type(options)) end
  for key in pairs(options) do
    if not OPTIONS[key] and not (kind == "histogram" and key == "buckets") then
      misuse("rille.metric.%s has no option '%s'; it takes help, labels%s", kind, tostring(key),
        kind == "histogram" and ", buckets" or "")
    end
  end
  if options.help ~= nil and type(options.help) ~= "string" then misuse("rille.metric.%s: help is a string", kind) end
end

local function bounds_of(kind, options)
  if kind ~= "histogram" then return ffi.new("double[1]"), 0 end
  local buckets = options.buckets or BUCKETS
  check_buckets(buckets)
  return ffi.new("double[?]", #buckets, buckets), #buckets
end

local classes = { counter = Counter, gauge = Gauge, histogram = Histogram }

local function same(self, labels, bounds, bound_count)
  if #labels ~= self._label_count or bound_count ~= self._bound_count then return false end
  for i, label in ipairs(labels) do
    if label ~= self._labels[i] then return false end
  end
  for i = 0, bound_count - 1 do
    if bounds[i] ~= self._bounds[i] then return false end
  end
  return true
end

-- The metric of that name, the same in the whole process, made when there is none. options: help, labels (a list of names), of a
-- histogram buckets (a list of upper bounds). nil, err: "full" (metrics.max of the configuration), "no memory". Raises when the name is
-- there with another type, other labels or buckets.
local function open(kind, name, options)
  options = options == nil and {} or options
  check_name(kind, name)
  check_options(kind, options)
  local labels = options.labels or {}
  check_labels(kind, labels)
  local bounds, bound_count = bounds_of(kind, options)
  local self = known[name]
  if self and self.type == kind and same(self, labels, bounds, bound_count) then return self end
  local joined_labels = #labels > 0 and table.concat(labels, "\0") .. "\0" or ""
  local p = C.rille_metric_open(name, TYPES[kind], options.help or "", joined_labels, #labels, bounds, bound_count, err_box)
  if p == nil then
    if err_box[0] == C.RILLE_ERR_EXISTS then
      misuse("rille.metric.%s: %q is there already, as another type or with other labels or buckets", kind, name)
    end
    return nil, text[-err_box[0]]
  end
  self = setmetatable({
    name = name, type = kind, _p = p, _labels = { unpack(labels) }, _label_count = #labels, _bounds = bounds,
    _bound_count = bound_count, _by_values = {}, _first = {}, _cell = false,
  }, classes[kind])
  if #labels == 0 then
    local cell, err = make_cell(self, kind)
    if not cell then return nil, err end
    self._cell = cell
  end
  known[name] = self
  return self
end

return {
  counter = function(name, options) return open("counter", name, options) end,
  gauge = function(name, options) return open("gauge", name, options) end,
  histogram = function(name, options) return open("histogram", name, options) end,
}
