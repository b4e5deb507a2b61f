-- garbage: how many bytes of Lua garbage a call leaves, in its steady state.

-- Bytes an iteration of use(n), the best of five starts: where the JIT compiler begins a trace is partly chance, and a start that
-- went badly is made anew. What makes garbage in its steady state makes it at every start.
return function(use)
  local best = math.huge
  for _ = 1, 5 do
    require("jit").flush()
    use(2000)
    collectgarbage()
    collectgarbage()
    collectgarbage("stop")
    local before = collectgarbage("count")
    use(100000)
    best = math.min(best, (collectgarbage("count") - before) * 1024 / 100000)
    collectgarbage("restart")
    if best < 1 then break end
  end
  return best
end
