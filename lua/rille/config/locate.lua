-- locate: the line of a configuration's source where a key stands. The source is read as tokens, not run: table constructors
-- after `return`, or assigned to the names that are returned, `conf.servers = {` included. Where a key was made in another
-- way (a call, a loop), its name is enough if it stands there once.

-- ---- tokens ----------------------------------------------------------------------------------------------------

local function count_lines(text)
  local _, n = text:gsub("\n", "")
  return n
end

-- A list of { kind = "name" | "string" | "number" | "symbol", text =, line = }; comments are left out.
local function tokens_of(source)
  local list, at, line = {}, 1, 1
  local function add(kind, first, last, text)
    list[#list + 1] = { kind = kind, text = text or source:sub(first, last), line = line }
    line = line + count_lines(source:sub(first, last))
    at = last + 1
  end
  local function long_end(level, from)
    local _, last = source:find("]" .. level .. "]", from, true)
    return last or #source
  end
  while at <= #source do
    local comment = source:match("^%-%-()", at)
    local bracket = comment or at
    local level, body = source:match("^%[(=*)%[()", bracket)
    if comment then
      local last = level and long_end(level, body) or (source:find("\n", at, true) or #source + 1) - 1
      line = line + count_lines(source:sub(at, last))
      at = last + 1
    elseif level then
      local last = long_end(level, body)
      add("string", at, last, source:sub(body, last - #level - 2))
    elseif source:find("^[\"']", at) then
      local quote, last = source:sub(at, at), at
      repeat
        last = last + 1
        local c = source:sub(last, last)
        if c == "\\" then
          last, c = last + 1, nil
        end
      until c == quote or last >= #source
      add("string", at, last, source:sub(at + 1, last - 1))
    elseif source:find("^[%a_]", at) then
      add("name", at, select(2, source:find("^[%w_]+", at)))
    elseif source:find("^%.?%d", at) then
      add("number", at, select(2, source:find("^[%w.]+", at)))
    elseif source:find("^[=~<>]=", at) or source:find("^%.%.", at) then
      add("symbol", at, at + 1)
    elseif source:find("^%s", at) then
      local last = select(2, source:find("^%s+", at))
      line = line + count_lines(source:sub(at, last))
      at = last + 1
    else
      add("symbol", at, at)
    end
  end
  return list
end

-- ---- tables ----------------------------------------------------------------------------------------------------
-- A node is what stands behind a key: { line =, fields = { [key] = node } or nil, alias = { "conf", "log" } or nil }.

local OPEN = { ["{"] = 1, ["("] = 1, ["["] = 1, ["}"] = -1, [")"] = -1, ["]"] = -1 }
local BLOCK = { ["function"] = 1, ["if"] = 1, ["do"] = 1, ["end"] = -1 }
local SEPARATOR = { [","] = true, [";"] = true, ["}"] = true }

local function is(token, text)
  return token and token.kind == "symbol" and token.text == text
end

-- The index behind an expression that stands in a table constructor.
local function skip(tokens, i)
  local depth = 0
  while tokens[i] do
    local t = tokens[i]
    if t.kind == "symbol" then
      if depth == 0 and SEPARATOR[t.text] then return i end
      depth = depth + (OPEN[t.text] or 0)
    elseif t.kind == "name" then
      depth = depth + (BLOCK[t.text] or 0)
    end
    i = i + 1
  end
  return i
end

-- a.b["c"] at i: the list of its names and the index behind it; nil when there is none.
local function chain_at(tokens, i)
  if not (tokens[i] and tokens[i].kind == "name") then return nil end
  local chain = { tokens[i].text }
  i = i + 1
  while true do
    if is(tokens[i], ".") and tokens[i + 1] and tokens[i + 1].kind == "name" then
      chain[#chain + 1] = tokens[i + 1].text
      i = i + 2
    elseif is(tokens[i], "[") and tokens[i + 1] and is(tokens[i + 2], "]") then
      local key = tokens[i + 1]
      chain[#chain + 1] = key.kind == "number" and tonumber(key.text) or key.text
      i = i + 3
    else
      return chain, i
    end
  end
end

local constructor

-- The value at i; ends(token) tells what may follow one that is a plain table or name. The node and the index behind it.
local function value(tokens, i, line)
  local node = { line = line }
  if is(tokens[i], "{") then
    return constructor(tokens, i, line)
  end
  local chain, behind = chain_at(tokens, i)
  if chain then node.alias = chain end
  return node, behind or i
end

-- The constructor whose "{" is at i.
function constructor(tokens, i, line)
  local node, count = { line = line, fields = {} }, 0
  i = i + 1
  while tokens[i] and not is(tokens[i], "}") do
    local t, key = tokens[i], nil
    if t.kind == "name" and is(tokens[i + 1], "=") then
      key, i = t.text, i + 2
    elseif is(t, "[") and is(tokens[i + 2], "]") and is(tokens[i + 3], "=") then
      key = tokens[i + 1].kind == "number" and tonumber(tokens[i + 1].text) or tokens[i + 1].text
      i = i + 4
    elseif not is(t, "[") then
      count = count + 1
      key = count
    end
    local child, behind = value(tokens, i, t.line)
    i = skip(tokens, i)
    if behind ~= i then child.fields, child.alias = nil, nil end -- a longer expression: a call, a concatenation
    if key ~= nil then node.fields[key] = child end
    if tokens[i] and not is(tokens[i], "}") then i = i + 1 end
  end
  return node, i + 1
end

local function id_of(chain)
  local parts = {}
  for i, key in ipairs(chain) do parts[i] = type(key) .. ":" .. key end
  return table.concat(parts, "\0")
end

-- What is returned last, and every assignment by its chain of names.
local function statements(tokens)
  local returned, assigned, depth, i = nil, {}, 0, 1
  while tokens[i] do
    local t = tokens[i]
    if t.kind == "symbol" then
      depth = depth + (OPEN[t.text] or 0)
    elseif t.kind == "name" and depth == 0 then
      if t.text == "return" then
        returned, i = value(tokens, i + 1, t.line)
        i = i - 1
      else
        local chain, behind = chain_at(tokens, i)
        if is(tokens[behind], "=") then
          assigned[id_of(chain)], i = value(tokens, behind + 1, t.line)
          i = i - 1
        end
      end
    end
    i = i + 1
  end
  return returned, assigned
end

-- ---- the key ---------------------------------------------------------------------------------------------------

local NESTING_MAX = 50 -- names that stand for each other

local function extended(chain, key)
  if not chain then return nil end
  local longer = { unpack(chain) }
  longer[#longer + 1] = key
  return longer
end

local function walk(node, chain, path, k, assigned, depth)
  if k > #path then return node.line end
  if depth > NESTING_MAX then return nil end
  local longer = extended(chain, path[k])
  local set = longer and assigned[id_of(longer)]
  local line = set and walk(set, longer, path, k + 1, assigned, depth + 1)
  if line then return line end
  local field = node.fields and node.fields[path[k]]
  line = field and walk(field, longer, path, k + 1, assigned, depth + 1)
  if line then return line end
  local target = node.alias and assigned[id_of(node.alias)]
  return target and walk(target, node.alias, path, k, assigned, depth + 1)
end

local function only_mention(tokens, name)
  local line
  for i, t in ipairs(tokens) do
    local is_key = t.kind == "name" and is(tokens[i + 1], "=")
      or t.kind == "string" and is(tokens[i - 1], "[") and is(tokens[i + 1], "]") and is(tokens[i + 2], "=")
    if is_key and t.text == name then
      if line then return nil end
      line = t.line
    end
  end
  return line
end

-- The line of the key at path, such as { "servers", 1, "listen" }, or nil.
return function(source, path)
  if #path == 0 then return nil end
  local tokens = tokens_of(source)
  local returned, assigned = statements(tokens)
  local line = returned and walk(returned, nil, path, 1, assigned, 0)
  return line or only_mention(tokens, path[#path])
end
