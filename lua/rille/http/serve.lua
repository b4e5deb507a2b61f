-- serve: the driver of on_request(req, res). Runs in a fiber like the drivers of dispatch.lua.

local C = require "rille.core"
local write_slow = require("rille.conn_write").slow
local request = require "rille.http.request"
local response = require "rille.http.response"
local script = require "rille.script"
local state = require "rille.state"
local task = require "rille.task"

local setmetatable = setmetatable

local TUNNEL, FULL = 2, 3 -- of rille_http_begin

-- The handler took the connection out of HTTP. Without an on_request of its own there, that is the end of it.
local function leave(self, p, again)
  local before = self._upgraded
  self._upgraded = false
  self._serve = require("rille.dispatch").serve
  if self._on_request == before then C.rille_conn_close(p) end
  if again == 1 then return self._serve(self) end -- closed or not: it is still held busy
end

-- on_tunnel has returned and made no tunnel. A 2xx would tell the client that there is one (RFC 9110 section 9.3.6), and what it
-- sends into it would be read as requests.
local function refuse_tunnel(p)
  if C.rille_http_status(p) >= 300 then return end
  if C.rille_http_set_status(p, 501) ~= 0 then C.rille_conn_close(p) end -- it was sent
  C.rille_http_set_field(p, "Connection", 10, "close", 5, 0)
end

-- The client does not read the answers it has: no more are made.
local function wait(self)
  write_slow(self, C.rille_conn_wait_output(self._p, -1))
  if self._p then return self._serve(self) end
end

-- No loop here: one that mostly runs once would keep its caller from being compiled.
local function serve(self)
  local p = self._p
  local kind = C.rille_http_begin(p)
  if kind == 0 then return end
  if kind == FULL then return wait(self) end
  local serial = self._serial
  local req, res = setmetatable({ self, serial }, request), setmetatable({ self, serial }, response)
  if kind == TUNNEL then
    state.services[C.rille_conn_service(p)].on_tunnel(req, res)
  else
    self._on_request(req, res)
  end
  self._serial = serial + 1
  if not self._p then return end
  if kind == TUNNEL and not self._upgraded then refuse_tunnel(p) end
  local again = C.rille_http_done(p)
  if self._upgraded then return leave(self, p, again) end
  if again == 1 then return serve(self) end
end

script.on_error(serve, "on_request", function(self, _, trace)
  self._serial = self._serial + 1
  local p = self._p
  if not p then return end
  local text = state.is_dev and trace .. "\n" or nil
  C.rille_http_failed(p, text, text and #text or 0)
  local again = C.rille_http_done(p)
  if self._upgraded then return leave(self, p, 0) end
  if again == 1 then task.start_later(serve, self) end
end)

return serve
