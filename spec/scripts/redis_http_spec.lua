-- scripts/redis_http.lua, as a user runs it, in front of Debian's redis-server.

local http = require "spec.support.http"
local redis = require "spec.support.redis"
local server = require "spec.support.server"
local cjson = require "cjson"

describe("scripts/redis_http.lua", function()
  after_each(server.cleanup)

  local s, c

  local function start(url, ...)
    s = server.run("scripts/redis_http.lua", { "redis=" .. url, ... }, { listen = "http://127.0.0.1:0" })
    c = s:connect()
  end

  local function ask(method, target, body)
    local answer = http.ask(c, http.request(method, target, nil, body))
    assert.equal("application/json", answer["content-type"])
    return answer.status, answer.body
  end

  local function is(expected, ...)
    local status, body = ask(...)
    assert.same(expected, status .. " " .. body:gsub("\n$", ""))
  end

  it("carries out commands", function()
    start(redis.start().url)
    is('200 {"result":"OK"}', "GET", "/SET/key/a%2Fb%20c")
    is('200 {"result":"a\\/b c"}', "GET", "/get/key?x=1")
    is('200 {"result":null}', "GET", "/GET/none")
    is('200 {"result":"OK"}', "PUT", "/SET/body", "a\r\n\"b\"")
    is('200 {"result":"a\\r\\n\\"b\\""}', "GET", "/GET/body")
    is('200 {"result":3}', "POST", "/", '["INCRBY", "n", 3]')
    is('200 {"result":[4,"4",null,[]]}', "POST", "/", '[["INCR","n"],["GET","n"],["GET","none"],["LRANGE","none","0","-1"]]')
    is('200 {"result":1}', "GET", "/HSET/h/f/v")
    is('200 {"result":{"f":"v"}}', "GET", "/HGETALL/h")
    is('200 {"result":[{"error":"ERR value is not an integer or out of range"}]}', "POST", "/", '[["INCR","key"]]')
  end)

  it("says what is wrong", function()
    local real = redis.start()
    start(real.url, "timeout=1")
    is('400 {"error":"ERR unknown command \'NOPE\', with args beginning with: "}', "GET", "/NOPE")
    for _, body in ipairs { "", "{}", "[]", "[1]", "null", "[[]]", "[", '"GET"', '["GET",{}]', '["GET",true]', '["MULTI"]', '[["MULTI"]]',
        '[["BLPOP","x","0"]]' } do
      local status, text = ask("POST", "/", body)
      assert.equal(400, status, body)
      assert.equal("string", type(cjson.decode(text).error))
    end
    assert.equal(400, (ask("GET", "/")))
    assert.equal(400, (ask("GET", "/SELECT/2")))
    real.process:kill()
    assert.equal(502, (ask("GET", "/GET/k")))
    assert.equal(502, (ask("GET", "/SUBSCRIBE/a")))
  end)

  it("allows what it is told to", function()
    start(redis.start().url, "allow=get,set")
    is('200 {"result":"OK"}', "GET", "/SET/k/v")
    is('403 {"error":"this command is not allowed"}', "GET", "/FLUSHALL")
    is('403 {"error":"this command is not allowed"}', "POST", "/", '[["GET","k"],["DEL","k"]]')
    is('403 {"error":"this command is not allowed"}', "GET", "/SUBSCRIBE/a")
  end)

  it("keeps connections usable for all, whatever one says", function()
    start(redis.start().url, "timeout=2")
    is('200 {"result":"OK"}', "GET", "/SET/k/v")
    for _, target in ipairs { "/REPLCONF/ACK/1", "/replconf/getack/*", "/CLIENT/REPLY/OFF", "/CLIENT/REPLY/SKIP", "/SCRIPT/DEBUG/YES",
        "/QUIT", "/MONITOR", "/RESET", "/PSYNC/x/-1", "/HELLO/2", "/SSUBSCRIBE/x", "/UNSUBSCRIBE" } do
      assert.equal(400, (ask("GET", target)), target)
      is('200 {"result":"v"}', "GET", "/GET/k")
    end
    for _, target in ipairs { "/DEBUG/PROTOCOL/push", "/DEBUG/PROTOCOL/attrib", "/CLIENT/TRACKING/ON", "/BLPOP/none/0.01" } do
      assert.equal(200, (ask("GET", target)), target)
      is('200 {"result":"v"}', "GET", "/GET/k")
    end
  end)

  it("does not let commands wait for ever, whoever has left", function()
    local real = redis.start()
    start(real.url, "wait=0.2")
    is('504 {"error":"timeout"}', "GET", "/BLPOP/none/0")
    for _ = 1, 40 do
      local gone = s:connect()
      gone:send(http.get "/BLPOP/none/0")
      gone:shutdown_write()
      gone:close()
    end
    -- until those of the others have had their time, this one may find no connection free
    local status, body
    server.net.poll_until(function()
      status, body = ask("GET", "/BLPOP/none/0.01")
      return status == 200
    end, 10)
    assert.equal('200 {"result":null}', status .. " " .. body:gsub("\n$", ""))
  end)

  it("answers what is under way when it is stopped, and ends streams", function()
    local real = redis.start()
    start(real.url)
    local reader, idle = s:connect(), s:connect()
    reader:send(http.get "/SUBSCRIBE/news")
    assert.equal(200, http.head(reader).status)
    assert.equal(200, http.ask(idle, http.request("GET", "/SET/k/v")).status)
    real.process:signal "STOP"
    c:send(http.get "/GET/k")
    s:signal "TERM"
    assert.same({ "", "closed" }, { idle:receive_all() })
    assert.equal("0\r\n\r\n", reader:receive_all())
    real.process:signal "CONT"
    local answer = http.answer(c)
    assert.equal(200, answer.status)
    assert.equal('{"result":"v"}\n', answer.body)
    assert.equal(0, s:wait_exit(10))
    s:check_end()
    s:forget()
  end)

  it("streams messages, and forgets who has left", function()
    local real = redis.start()
    start(real.url)
    c:send(http.get "/SUBSCRIBE/news/other")
    assert.equal(200, http.head(c).status)
    local second = s:connect()
    local function publish(text)
      return http.ask(second, http.request("GET", "/PUBLISH/news/" .. text)).body
    end
    assert.equal('{"result":1}\n', publish "hello")
    local line = '{"channel":"news","message":"hello"}\n'
    assert.equal(("%x\r\n%s\r\n"):format(#line, line), c:receive(#line + 6))
    c:reset()
    server.net.poll_until(function() return publish "x" == '{"result":0}\n' end, 10)
    assert.equal('{"result":0}\n', publish "x")
  end)
end)
