rockspec_format = "3.0"
package = "rille"
version = "dev-1"
source = {
  url = "git+https://github.com/rille-lua/rille",
}
description = {
  summary = "A Lua-scriptable event server for Linux",
  detailed = [[
A small C core of pollers, LinkBuffers and a worker pool hands connections to LuaJIT through the FFI. A protocol gateway
is a Lua script that reads zero-copy slices out of the socket's buffers and is hot-reloaded under live traffic.]],
  homepage = "https://github.com/rille-lua/rille",
  license = "MIT",
  labels = { "server", "network", "luajit", "ffi" },
}
supported_platforms = { "linux" }
dependencies = {
  "lua >= 5.1, < 5.2", -- LuaJIT: the Makefile asks for its headers, the command for its interpreter
}
external_dependencies = {
  CARES = { header = "ares.h", library = "cares" }, -- DNS; pkg-config finds it for the Makefile
  OPENSSL = { header = "openssl/ssl.h", library = "ssl" },
}
test_dependencies = {
  "busted",
  "lua-cjson", -- the library itself does without
}
build = {
  type = "make",
  variables = { -- the same for both passes, or the second would build again
    CC = "$(CC)",
    CFLAGS = "$(CFLAGS)",
    LUA_INCDIR = "$(LUA_INCDIR)",
  },
  install_variables = {
    BINDIR = "$(BINDIR)",
    LUADIR = "$(LUADIR)",
    LIBDIR = "$(LIBDIR)",
    DATADIR = "$(PREFIX)", -- conf/ and scripts/ of the rock's own folder
    DOCDIR = "$(PREFIX)/doc",
  },
  copy_directories = {}, -- make install has put everything in place
}
deploy = {
  wrap_bin_scripts = false, -- bin/rille finds luajit and its tree by itself
}
