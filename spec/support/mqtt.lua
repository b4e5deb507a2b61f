-- mqtt: a raw client of MQTT 3.1.1 for specs, which sends what it is told, right or wrong; many of them in one process; and mosquitto's
-- clients.

local ffi = require "ffi"
local LinkBuffer = require "rille.linkbuffer"
local packet = require "rille.mqtt.packet"
local server = require "spec.support.server"
local net = server.net

local C = net.C

local Client = {}
Client.__index = Client

local M = { Client = Client, packet = packet, server = server, net = net }

-- ---- one client ------------------------------------------------------------------------------------------------

-- A connection that has said nothing yet. options: as of client.connect.
function M.open(url, options)
  local self = setmetatable({ socket = server.client.connect(url, options), input = LinkBuffer.new(), next_id = 0 }, Client)
  self.fd = self.socket.fd
  return self
end

-- One that has said CONNECT; options as of packet.connect, clean unless it says otherwise. The client, whether there was a session.
function M.connect(url, options, socket_options)
  options = options or {}
  if options.clean == nil then options.clean = true end
  local self = M.open(url, socket_options)
  self:send(packet.connect(options))
  local answer = self:expect(packet.CONNACK)
  if answer.code ~= 0 then error(("CONNECT is refused with %d"):format(answer.code), 0) end
  return self, answer.is_present
end

-- The connection breaks off, and another one takes its place, which has sent a CONNECT with these options.
function Client:come_back(url, options)
  self.socket:reset()
  self.socket, self.input = server.client.connect(url), LinkBuffer.new()
  self.fd = self.socket.fd
  return self:send(packet.connect(options))
end

function Client:send(bytes)
  self.socket:send(bytes)
  return self
end

-- A packet as a table, from its parts.
local function table_of(kind, flags, body)
  local out = { kind = kind, flags = flags }
  if kind == packet.PUBLISH then
    local topic, payload, id, qos, retain, is_dup = packet.publish_of(flags, body)
    assert(topic, "the server sent a malformed PUBLISH")
    out.topic, out.payload, out.id, out.qos, out.retain, out.dup = topic:str(), payload:str(), id, qos, retain, is_dup
  elseif kind == packet.CONNACK then
    out.is_present, out.code = packet.connack_of(body)
  elseif kind == packet.SUBACK then
    out.id, out.codes = packet.suback_of(body)
  elseif kind ~= packet.PINGRESP then
    out.id = packet.id_of(body)
    assert(out.id, "the server sent a malformed packet")
  end
  return out
end

-- The next packet of what has come; nil: there is none.
local function take(self)
  local kind, flags, body, size = packet.decode(self.input, 2 ^ 28)
  if not kind then
    assert(not flags, flags)
    return nil
  end
  local out = table_of(kind, flags, body)
  self.input:skip(size)
  self.input:release()
  return out
end

local function fill(self, seconds)
  local bytes = self.socket:receive_some(seconds)
  if not bytes then return nil end
  if bytes == "" then return false end
  self.input:write(bytes)
  self.input:flush()
  return true
end

-- The next packet; nil when the stream has ended; raises when nothing comes in time.
function Client:packet(seconds)
  local deadline = net.deadline(seconds or 5)
  while true do
    local one = take(self)
    if one then return one end
    local more = fill(self, math.max(0, deadline - net.now()) / net.slow)
    if more == false then return nil end
    if more == nil then error("no packet in time", 0) end
  end
end

-- The next packet, which has to be of this kind.
function Client:expect(kind, seconds)
  local one = self:packet(seconds)
  if not one then error(("the stream ended instead of packet %d"):format(kind), 0) end
  if one.kind ~= kind then error(("packet %d instead of %d, %s"):format(one.kind, kind, one.topic or ""), 0) end
  return one
end

-- What is there, without waiting: call fn(packet) for each. False at the end of the stream.
function Client:each(fn)
  local more = fill(self, 0)
  for one in function() return take(self) end do fn(one) end
  return more ~= false
end

-- Nothing comes: what was sent before has been dealt with when a ping is answered.
function Client:ping()
  self:send(packet.pingreq)
  return self:expect(packet.PINGRESP)
end

function Client:id()
  self.next_id = self.next_id % 65535 + 1
  return self.next_id
end

-- The codes of a SUBSCRIBE for these filters, all with one QoS.
function Client:subscribe(filters, qos)
  local list = {}
  for i, filter in ipairs(type(filters) == "table" and filters or { filters }) do list[i] = { filter = filter, qos = qos or 0 } end
  local id = self:id()
  self:send(packet.subscribe(id, list))
  local answer = self:expect(packet.SUBACK)
  assert(answer.id == id, "a SUBACK of something else")
  return answer.codes
end

-- With QoS 1 when it has been acknowledged, with 2 when it is complete.
function Client:publish(topic, payload, qos, retain)
  local id = (qos or 0) > 0 and self:id() or nil
  self:send(packet.publish(topic, payload, qos, id, retain))
  if qos == 1 then assert(self:expect(packet.PUBACK).id == id) end
  if qos == 2 then
    assert(self:expect(packet.PUBREC).id == id)
    self:send(packet.reply(packet.PUBREL, id))
    assert(self:expect(packet.PUBCOMP).id == id)
  end
  return id
end

-- The next message, acknowledged if it asks for that (unless keep): topic, payload, the packet.
function Client:message(keep, seconds)
  local one = self:expect(packet.PUBLISH, seconds)
  if one.qos > 0 and not keep then self:send(packet.reply(packet.PUBACK, one.id)) end
  return one.topic, one.payload, one
end

-- How the stream ends: "closed" or "reset". Other packets until then are dropped.
function Client:ended(seconds)
  local _, how = self.socket:receive_all(seconds)
  return how
end

function Client:close() self.socket:close() end

function Client:reset() self.socket:reset() end

-- ---- many ------------------------------------------------------------------------------------------------------

-- Wait until some of these clients have something, and call fn(client, packet) for each packet; fn may be called for none. Raises at the
-- end of a stream.
function M.turn(clients, fn, ms)
  local fds = ffi.new("struct net_pollfd[?]", #clients)
  for i, one in ipairs(clients) do
    fds[i - 1].fd, fds[i - 1].events = one.fd, net.POLLIN
  end
  C.net_poll(fds, #clients, ms or 50)
  for i, one in ipairs(clients) do
    if fds[i - 1].revents ~= 0 then
      local goes_on = one:each(function(packet_there) fn(one, packet_there) end)
      if not goes_on then error(("the server ended the connection of client %d: %s"):format(i, one.socket.ended), 0) end
    end
  end
end

-- ---- mosquitto -------------------------------------------------------------------------------------------------

-- mosquitto_sub or mosquitto_pub with these words: a process. It has log(), wait_exit(), signal(), and ends with the spec.
function M.mosquitto(name, s, ...)
  local program = "mosquitto_" .. name
  if os.execute(("command -v %s >/dev/null 2>&1"):format(program)) ~= 0 then
    error(program .. " is missing: apt-get install mosquitto-clients (make test-deps does)", 0)
  end
  local process = server.spawn(nil, { command = { "stdbuf", "-oL", program, "-h", "127.0.0.1", "-p", tostring(s.port), ... } })
  process:forget()
  return process
end

-- mosquitto_pub; it has to go well.
function M.publish(s, ...)
  local process = M.mosquitto("pub", s, ...)
  local status = process:wait_exit()
  if status ~= 0 then error(("mosquitto_pub: %s: %s"):format(tostring(status), process:log()), 0) end
end

-- The lines that a mosquitto_sub has printed at its end.
function M.lines(process)
  local status = process:wait_exit(20)
  if status ~= 0 then error(("mosquitto_sub: %s: %s"):format(tostring(status), process:log()), 0) end
  local lines = {}
  for line in process:log():gmatch("[^\n]+") do lines[#lines + 1] = line end
  return lines
end

return M
