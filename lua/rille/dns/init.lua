-- dns: for servers of DNS. A forwarder with a cache, what a query asks, answers that are errors. See docs/dns.md. (rille.resolve is for
-- scripts that want to know an address.)

local message = require "rille.dns.message"

return {
  forwarder = require "rille.dns.forwarder",
  question = message.question,
  error = message.error,
  types = message.TYPES,
}
