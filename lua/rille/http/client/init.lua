-- client: requests over HTTP/1.1, through pools of connections that each loop keeps. docs/http_client.md describes it.
--
-- options.lua reads what a script says; url.lua takes URLs apart; send.lua writes a request; answer.lua is what comes back. The pools are
-- rille.upstream's: one for each origin, or the one that the script gives.

local C = require "rille.core"
local answer = require "rille.http.client.answer"
local json = require "rille.http.json"
local misuse = require "rille.misuse"
local options = require "rille.http.client.options"
local resolve = require "rille.resolve"
local send = require "rille.http.client.send"
local state = require "rille.state"
local task = require "rille.task"
local upstream = require "rille.upstream"
local urls = require "rille.http.client.url"

local type, rawget, rawset = type, rawget, rawset

local TRIES = 3 -- of a request, when connections turn out to have been closed by the server

local IDEMPOTENT = { GET = true, HEAD = true, OPTIONS = true, TRACE = true, PUT = true, DELETE = true } -- RFC 9110 section 9.2.2
local REDIRECTS = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

local Client = {}
Client.__index = Client

-- ---- origins ---------------------------------------------------------------------------------------------------

local function copy(t, into)
  into = into or {}
  for key, value in pairs(t or {}) do into[key] = value end
  return into
end

local function dial_options(settings, url)
  local dial = copy(settings.dial)
  if url.scheme == "https" then
    dial.tls = copy(settings.tls, { alpn = { "http/1.1" } })
  end
  return dial
end

-- The one that was not used for the longest time goes, with its idle connections; what is in use is finished.
local function make_room(self)
  if self.origin_count < self.settings.max_origins then return end
  local oldest
  for _, one in pairs(self.origins) do
    if not oldest or one.used < oldest.used then oldest = one end
  end
  self.origins[oldest.name] = nil
  self.origin_count = self.origin_count - 1
  oldest.upstream:close()
end

-- The pool for a URL.
local function pool_of(self, url)
  if self.shared and url.origin == self.base_origin then return self.shared end
  local one = self.origins[url.origin]
  self.clock = self.clock + 1
  if not one then
    make_room(self)
    local settings = self.settings
    one = {
      name = url.origin,
      upstream = upstream.new {
        name = url.origin, targets = { ("%s://%s:%d"):format(url.scheme == "https" and "tls" or "tcp", url.host, url.port) },
        keepalive = settings.keepalive, keepalive_timeout = settings.keepalive_timeout, max_requests = settings.max_requests,
        max_per_target = settings.max_per_origin, queue = settings.queue, queue_timeout = settings.queue_timeout,
        connect_timeout = settings.connect_timeout, retry = { attempts = 1 }, health = { passive = false },
        dial = dial_options(settings, url),
      },
    }
    self.origins[url.origin] = one
    self.origin_count = self.origin_count + 1
  end
  one.used = self.clock
  return one.upstream
end

-- ---- one exchange ----------------------------------------------------------------------------------------------

-- A connection. The upstream's own times bound the wait, unless the request has less left than they come to.
local function obtain(self, up, call, url)
  local left, opts = call.deadline - C.rille_now(), nil
  if left <= 0 then return nil, "timeout", ("%s %s: not done in %g s"):format(call.method, url.text, call.timeout) end
  local settings = self.settings
  if left < 2 * settings.connect_timeout + settings.queue_timeout then opts = { timeout = left } end
  if call.key then
    opts = opts or {}
    opts.key = call.key
  end
  local conn, err, message = up:get(opts)
  if conn then return conn end
  return nil, err, ("%s %s: %s"):format(call.method, url.text, message or err)
end

-- Whether a request that failed on this connection is to be made once more: the server may have closed it when nobody used it, and cannot
-- have acted on what it did not see. One that it may have seen is repeated only when that makes no difference.
local function is_stale(call, conn, res, err, is_reused)
  if not is_reused or not (err == "closed" or err == "reset") then return false end
  return call.is_idempotent and send.can_repeat(call.body) and not answer.has_begun(res, conn)
end

-- Send it and wait for the head of its answer, whatever happens in between: the answer to be; nil, err, message.
local function converse(up, conn, call, url)
  local is_through, sender = task.protect(send.start, conn, call, url)
  local res = is_through and answer.new(up, conn, sender, call, url)
  if not res then
    if is_through then sender:stop() end
    conn:abort()
    up:put(conn, "error")
    if is_through then return nil, nil, "no memory" end
    error(sender, 0)
  end
  local done, err, message
  is_through, done, err, message = task.protect(answer.await, res)
  if not is_through then -- cancelled, out of time, or what the body's function has raised
    answer.drop(res, "cancelled")
    error(done, 0)
  end
  return res, done, err, message
end

local function exchange(self, call, url)
  for try = 1, TRIES do
    local up = pool_of(self, url)
    local conn, err, message = obtain(self, up, call, url)
    if conn then
      local is_reused = rawget(conn, "_is_used")
      rawset(conn, "_is_used", true)
      local res, done
      res, done, err, message = converse(up, conn, call, url)
      if done then return res end
      if not res or not is_stale(call, conn, res, err, is_reused) then return nil, err, message end
    else
      local is_given_up = err == "closed" and not self.is_closed and pool_of(self, url) ~= up -- for other origins, while it waited
      if not is_given_up then return nil, err, message end
    end
    if try == TRIES then return nil, err, message end
  end
end

-- ---- redirects -------------------------------------------------------------------------------------------------

local function without(call, ...)
  local fields, names = {}, copy(call.names)
  local gone = {}
  for _, name in ipairs { ... } do gone[name], names[name] = true, nil end
  for _, field in ipairs(call.fields) do
    if not gone[field.lower] then fields[#fields + 1] = field end
  end
  call.fields, call.names = fields, names
end

-- RFC 9110 section 15.4: whether it goes on as a GET.
local function becomes_get(call, status)
  if status == 303 then return call.method ~= "HEAD" end
  return (status == 301 or status == 302) and call.method == "POST"
end

-- Where an answer sends to, if that is to be followed: a URL. nil, err, message; nil alone: it is the answer.
local function next_url(call, res, url)
  local location = REDIRECTS[res.status] and res:header("Location")
  if not location or call.redirects == 0 then return nil end
  if not becomes_get(call, res.status) and not send.can_repeat(call.body) then return nil end
  if call.followed >= call.redirects then
    return nil, "server failure", ("%s %s: more than %d redirects"):format(call.method, url.text, call.redirects)
  end
  local to, err, message = urls.resolve(url, location)
  if not to then return nil, err, message end
  if url.scheme == "https" and to.scheme ~= "https" then
    return nil, "refused", ("%s %s: redirected from https to %s"):format(call.method, url.text, to.text)
  end
  return to
end

-- What becomes of the method, and what another server must not be told.
local function turn(call, status, from, to)
  call.followed = call.followed + 1
  if becomes_get(call, status) then
    call.method, call.is_idempotent = "GET", true
    call.body = send.prepare({}, {})
    without(call, "content-type", "content-length", "content-encoding", "content-language", "content-location")
  end
  if from.origin ~= to.origin then without(call, "authorization", "cookie", "proxy-authorization", "host") end
end

local function follow(self, call, url)
  while true do
    local res, err, message = exchange(self, call, url)
    if not res then return nil, err, message end
    local to
    to, err, message = next_url(call, res, url)
    if err then
      res:discard()
      return nil, err, message
    end
    if not to then return res end
    res:discard()
    turn(call, res.status, url, to)
    url = to
  end
end

-- ---- requests --------------------------------------------------------------------------------------------------

local function url_of(self, request, where)
  local text = request.url
  if not text then
    local base = self.base
    if not base then misuse("%s needs a url: the client has no base", where) end
    local path = request.path or "/"
    if path:sub(1, 1) ~= "/" then misuse("%s: a path begins with '/', got %q", where, path) end
    text = base .. path
  end
  local query = request.query
  if query then
    if type(query) == "table" then query = urls.query(query, where) end
    if query:find("#", 1, true) then return nil, "bad address", ("%s: a # in a query has to be percent-encoded"):format(text) end
    text = text:gsub("#.*$", "")
    if query ~= "" then text = text .. (text:find("?", 1, true) and "&" or "?") .. query end
  end
  return urls.parse(text)
end

-- The fields of the request, then those of the client that it does not name.
local function merge_fields(self, request, where)
  local settings = self.settings
  if not request.headers then return settings.fields, settings.field_names end
  local fields, names = options.fields(request.headers, where)
  for _, field in ipairs(settings.fields) do
    if not names[field.lower] then fields[#fields + 1] = field end
  end
  return fields, copy(settings.field_names, names)
end

-- One Host at most, and one that can be: two readers of a request are not to find two.
local function check_host(fields, where)
  local is_there = false
  for _, field in ipairs(fields) do
    if field.lower == "host" then
      if is_there then misuse("%s: headers: Host stands there twice", where) end
      is_there = true
      if C.rille_http_check_host(field.value, #field.value) ~= 1 then misuse("%s: headers: %q is no Host", where, field.value) end
    end
  end
end

local function check_method(method, where)
  if C.rille_http_check_field(method, #method, "", 0) ~= 0 then misuse("%s: %q is no method", where, method) end
  if method == "CONNECT" then misuse("%s: CONNECT is not supported", where) end
end

local function encode_json(request, fields, names)
  json.need()
  local ok, body = pcall(json.encode, request.json)
  if not ok then misuse("json: %s", tostring(body)) end
  request.body = body
  if names["content-type"] then return fields, names end
  local more = copy(fields)
  more[#more + 1] = { name = "Content-Type", lower = "content-type", value = "application/json" }
  return more, copy({ ["content-type"] = true }, copy(names))
end

-- What the exchange of a request needs to know.
local function make_call(self, request, where)
  local settings = self.settings
  local method = request.method or "GET"
  check_method(method, where)
  local fields, names = merge_fields(self, request, where)
  if names.host then check_host(fields, where) end
  if request.json ~= nil then fields, names = encode_json(request, fields, names) end
  local timeout = request.timeout
  local is_idempotent = request.idempotent
  if is_idempotent == nil then is_idempotent = IDEMPOTENT[method] or false end
  return {
    method = method, fields = fields, names = names, body = send.prepare(request, fields), key = request.key,
    is_idempotent = is_idempotent, is_last = names.connection or false, followed = 0, redirects = request.redirects,
    timeout = timeout, deadline = timeout > 0 and C.rille_now() + timeout or math.huge,
    answer_timeout = request.answer_timeout, read_timeout = request.read_timeout, max_body = request.max_body,
    max_head = settings.max_head, max_headers = settings.max_headers,
  }
end

local function perform(self, request, where)
  resolve.need_task(where)
  request = options.request(request, self.settings, where)
  local url, err, message = url_of(self, request, where)
  if not url then return nil, err, message end
  local call = make_call(self, request, where)
  if self.is_closed then return nil, "closed", "this client is closed" end
  return follow(self, call, url)
end

-- request{ method =, url = or path =, headers =, query =, body = or json =, ... }: the answer, or nil, err, message. Parks.
function Client:request(request)
  return perform(self, request, "client:request")
end

for _, name in ipairs { "get", "head", "post", "put", "patch", "delete", "options" } do
  local method, where = name:upper(), "client:" .. name
  -- The same for a URL, or a path where the client has a base.
  Client[name] = function(self, where_to, opts)
    if type(where_to) ~= "string" then misuse("bad argument #1 to '%s' (a URL expected, got %s)", name, type(where_to)) end
    if opts ~= nil and type(opts) ~= "table" then misuse("bad argument #2 to '%s' (a table expected, got %s)", name, type(opts)) end
    local request = copy(opts)
    if request.method or request.url or request.path then misuse("%s: method and URL are said already", where) end
    request.method = method
    request[where_to:sub(1, 1) == "/" and "path" or "url"] = where_to
    return perform(self, request, where)
  end
end

-- { origins =, in_use =, idle =, waiting =, requests = }
function Client:stats()
  local out = { origins = self.origin_count, in_use = 0, idle = 0, waiting = 0, requests = 0 }
  local function add(up)
    local one = up:stats()
    for _, key in ipairs { "in_use", "idle", "waiting", "requests" } do out[key] = out[key] + one[key] end
  end
  if self.shared then add(self.shared) end
  for _, one in pairs(self.origins) do add(one.upstream) end
  return out
end

-- No more requests: idle connections end, used ones when their answers were read. An upstream that the script gave is left alone.
function Client:close()
  self.is_closed = true
  for _, one in pairs(self.origins) do one.upstream:close() end
  self.origins, self.origin_count = {}, 0
  return true
end

-- http.client{ ... }
return function(values)
  state.need_loop("http.client")
  local settings = options.client(values)
  local base, base_origin = settings.base, nil
  if base then
    local url, _, message = urls.parse(base)
    if not url then misuse("http.client: base: %s", message) end
    base, base_origin = (url.text:gsub("/$", "")), url.origin
    if base:find("?", 1, true) then misuse("http.client: base has a query: %s", base) end
  end
  if settings.upstream and type(settings.upstream.get) ~= "function" then misuse("http.client: upstream is what rille.upstream returns") end
  if settings.upstream and not base then misuse("http.client: an upstream needs a base, whose host the requests are for") end
  return setmetatable({
    settings = settings, base = base, base_origin = base_origin, shared = settings.upstream, origins = {}, origin_count = 0,
    clock = 0, is_closed = false,
  }, Client)
end
