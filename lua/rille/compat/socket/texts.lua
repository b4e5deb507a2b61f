-- texts: Rille's errors in LuaSocket's words. What LuaSocket takes from the system's own texts is here as the C library has it.

local TEXTS = {
  reset = "closed",
  shutdown = "closed",
  refused = "connection refused",
  unreachable = "No route to host",
  ["address in use"] = "address already in use",
  ["address not available"] = "Cannot assign requested address",
  ["bad address"] = "host or service not provided, or not known",
  ["not found"] = "host or service not provided, or not known",
  ["server failure"] = "temporary failure in name resolution",
  ["bad certificate"] = "certificate verify failed",
  ["too many open files"] = "Too many open files",
  ["too large"] = "Message too long",
  ["no memory"] = "Cannot allocate memory",
}

-- "timeout", "closed", "permission denied" and what LuaSocket does not know stay as they are.
return function(err)
  return TEXTS[err] or err
end
