-- dnsmasq: Debian's DNS server on a port of loopback, with a zone for specs; and dig, which asks.

local inside = require "spec.support.inside"
local message = require "spec.support.dns"
local server = require "spec.support.server"
local udp = require "spec.support.udp"

local M = {}

M.TXT = ("x"):rep(200) -- three of these are the TXT records of big.test

local ZONE = {
  "--host-record=a.test,192.0.2.1", "--host-record=six.test,2001:db8::6", "--address=/wild.test/192.0.2.9", "--local=/test/",
  "--cname=alias.test,a.test", "--mx-host=mail.test,a.test,10", "--local-ttl=300",
}

-- { address = "127.0.0.1:PORT", port =, kill = function }. port: the one it has to have.
function M.start(port)
  for _ = 1, 5 do
    local at = port or server.net.some_port()
    local command = { "env", "-u", "LD_PRELOAD", "PATH=" .. os.getenv("PATH") .. ":/usr/sbin:/sbin", -- without a sanitizer
      "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file", "--user=",
      "--port=" .. at, "--listen-address=127.0.0.1", "--bind-interfaces", "--log-facility=-", unpack(ZONE) }
    for i = 1, 3 do command[#command + 1] = "--txt-record=big.test," .. i .. M.TXT end
    local process = server.spawn(nil, { command = command })
    process:forget()
    local answers = server.net.poll_until(function()
      if process:has_exited() then return "gone" end
      if not process:log():find("started, version", 1, true) then return nil end -- else who answers may be somebody else's
      local c = udp.connect("udp://127.0.0.1:" .. at)
      local ok, sent = pcall(c.try_send, c, message.query("a.test", "A"))
      local answer = ok and sent == true and select(2, pcall(c.try_receive, c, 0.2))
      c:close()
      return type(answer) == "string" and #answer > 12
    end, 10)
    if answers == true then
      return { address = "127.0.0.1:" .. at, port = at, kill = function() process:kill() end }
    end
    process:kill()
  end
  error("dnsmasq does not serve", 0)
end

-- What dig says, of a server's port: { status = "NOERROR", flags = "qr rd ra", text = all, short = { data of the answers } }.
function M.dig(port, ...)
  local words = { "env", "-u", "LD_PRELOAD", "dig", "-r", "@127.0.0.1", "-p", tostring(port), "+tries=3", "+time=3", ... }
  local result = inside.command(words, 20)
  local out = { text = result.out, status = result.out:match("status: (%w+)"), flags = result.out:match("flags: ([%w ]*);"), short = {} }
  local section = result.out:match("ANSWER SECTION:\n(.-)\n\n") or ""
  for line in section:gmatch("[^\n]+") do
    local ttl, kind, data = line:match("^%S+%s+(%d+)%s+IN%s+(%S+)%s+(.*)$")
    out.short[#out.short + 1] = kind .. " " .. data
    out.ttl = tonumber(ttl)
  end
  return out
end

return M
