-- serve: the driver of on_request(req, res). Runs in a fiber like the drivers of dispatch.lua.

local C = require "rille.core"
local request = require "rille.http.request"
local response = require "rille.http.response"
local script = require "rille.script"
local state = require "rille.state"
local task = require "rille.task"

local setmetatable = setmetatable

local TUNNEL = 2 -- of rille_http_begin

-- The handler took the connection out of HTTP. Without an on_request of its own there, that is the end of it.
local function leave(self, p, again)
  local before = self._upgraded
  self._upgraded = false
  self._serve = require("rille.dispatch").serve
  if self._on_request == before then
    C.rille_conn_close(p)
  elseif again == 1 then
    return self._serve(self)
  end
end

-- No loop here: one that mostly runs once would keep its caller from being compiled.
local function serve(self)
  local p = self._p
  local kind = C.rille_http_begin(p)
  if kind == 0 then return end
  local serial = self._serial
  local req, res = setmetatable({ self, serial }, request), setmetatable({ self, serial }, response)
  if kind == TUNNEL then
    state.services[C.rille_conn_service(p)].on_tunnel(req, res)
  else
    self._on_request(req, res)
  end
  self._serial = serial + 1
  if not self._p then return end
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
