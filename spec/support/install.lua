-- What spec/install_spec.lua needs: temporary folders, commands, a server process whose output is read, a TCP client.
-- It uses nothing of Rille, since an installed copy is what is tested.

local ffi = require("ffi")
local C = ffi.C

ffi.cdef([[
typedef struct { char opaque[512]; } install_spawn;
struct install_pollfd { int fd; short events; short revents; };
struct install_sockaddr { uint16_t family; uint16_t port; uint32_t address; char zero[8]; };
char *mkdtemp(char *template);
char *realpath(const char *path, char *resolved);
void free(void *);
int pipe2(int fds[2], int flags);
int posix_spawn_file_actions_init(install_spawn *);
int posix_spawn_file_actions_adddup2(install_spawn *, int from, int to);
int posix_spawn_file_actions_destroy(install_spawn *);
int posix_spawn(int *pid, const char *path, const install_spawn *actions, const void *attributes, char *const argv[],
                char *const env[]);
int poll(struct install_pollfd *fds, unsigned long n, int timeout_ms);
long read(int fd, void *to, size_t size);
long send(int fd, const void *from, size_t size, int flags);
int close(int fd);
int kill(int pid, int signal);
int waitpid(int pid, int *status, int options);
int socket(int domain, int type, int protocol);
int connect(int fd, const struct install_sockaddr *address, unsigned size);
extern char **environ;
]])

local O_CLOEXEC, POLLIN, WNOHANG, SIGTERM, SIGKILL = 0x80000, 1, 1, 15, 9
local AF_INET, SOCK_STREAM, SOCK_CLOEXEC, MSG_NOSIGNAL = 2, 1, 0x80000, 0x4000

local M = {}

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end
M.quote = quote

-- the environment of every command: nothing that points back at the checkout or at a sanitizer
local CLEAN = "unset LD_PRELOAD RILLE_CORE LUA_PATH LUA_CPATH LUA_INIT MAKEFLAGS MAKELEVEL MFLAGS; "

--- The absolute path of a file that exists, without symbolic links.
function M.realpath(path)
  local p = C.realpath(path, nil)
  assert(p ~= nil, path)
  local text = ffi.string(p)
  C.free(p)
  return text
end

--- A new empty folder; M.cleanup removes it.
local folders = {}
function M.folder()
  local template = (os.getenv("TMPDIR") or "/tmp") .. "/rille-install-XXXXXX"
  local buffer = ffi.new("char[?]", #template + 1, template)
  assert(C.mkdtemp(buffer) ~= nil, "mkdtemp")
  folders[#folders + 1] = ffi.string(buffer)
  return folders[#folders]
end

function M.write(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
end

function M.read(path)
  local f = assert(io.open(path))
  local text = f:read("*a")
  f:close()
  return text
end

--- Run a shell command in a folder. Returns its exit status, what it wrote to stdout and to stderr.
function M.run(folder, command)
  local err = os.tmpname()
  local text = CLEAN .. "cd " .. quote(folder) .. " && { " .. command .. "\n} 2>" .. err .. " </dev/null; echo $?"
  local f = io.popen(text)
  local out, status = f:read("*a"):match("^(.*)(%d+)\n$")
  f:close()
  local err_text = M.read(err)
  os.remove(err)
  return tonumber(status), out, err_text
end

--- The same for a command that must work: raises with its output if it does not. Returns stdout.
function M.must(folder, command)
  local status, out, err = M.run(folder, command)
  if status ~= 0 then
    error(("%s: exit status %s\n%s%s"):format(command, tostring(status), out, err), 2)
  end
  return out
end

--- Every file below a folder, as one sorted list of relative names.
function M.files(folder)
  local list = {}
  for name in M.must(folder, "find . -type f | LC_ALL=C sort"):gmatch("%./([^\n]+)") do
    list[#list + 1] = name
  end
  return list
end

-- ---- a server -------------------------------------------------------------------------------------------------------

local Server = {}
Server.__index = Server
local servers = {}

-- poll one descriptor for reading; false after timeout_ms
local function readable(fd, timeout_ms)
  local p = ffi.new("struct install_pollfd", fd, POLLIN, 0)
  return C.poll(p, 1, timeout_ms) > 0
end

--- Start a command in a folder; its pid is that of the command, its stdout and stderr are read by `expect`.
function M.start(folder, command)
  local fds, pid = ffi.new("int[2]"), ffi.new("int[1]")
  assert(C.pipe2(fds, O_CLOEXEC) == 0)
  local actions = ffi.new("install_spawn")
  C.posix_spawn_file_actions_init(actions)
  C.posix_spawn_file_actions_adddup2(actions, fds[1], 1)
  C.posix_spawn_file_actions_adddup2(actions, fds[1], 2)
  local text = CLEAN .. "cd " .. quote(folder) .. " && exec " .. command
  local argv = ffi.new("const char *[4]", { "sh", "-c", text })
  local rc = C.posix_spawn(pid, "/bin/sh", actions, nil, ffi.cast("char *const *", argv), C.environ)
  C.posix_spawn_file_actions_destroy(actions)
  C.close(fds[1])
  assert(rc == 0, "posix_spawn")
  local server = setmetatable({ pid = pid[0], out_fd = fds[0], output = "" }, Server)
  servers[#servers + 1] = server
  return server
end

--- Read output until it matches a pattern; returns the captures. Raises with the output after 15 s or at its end.
function Server:expect(pattern)
  local room = ffi.new("char[4096]")
  while true do
    local a, b = self.output:match(pattern)
    if a then
      return a, b
    end
    local n = readable(self.out_fd, 15000) and C.read(self.out_fd, room, 4096) or -1
    if n <= 0 then
      error("the server never wrote " .. pattern .. (n == 0 and ", it ended:\n" or ":\n") .. self.output, 2)
    end
    self.output = self.output .. ffi.string(room, n)
  end
end

--- End the process, wait for it, return its exit status (nil if a signal ended it).
function Server:stop(signal)
  if self.status ~= nil then
    return self.status
  end
  local room, status = ffi.new("char[4096]"), ffi.new("int[1]")
  C.kill(self.pid, signal or SIGTERM)
  -- its output ends when it does
  while readable(self.out_fd, 10000) do
    if C.read(self.out_fd, room, 4096) <= 0 then
      break
    end
  end
  if C.waitpid(self.pid, status, WNOHANG) == 0 then
    C.poll(nil, 0, 200) -- the pipe is closed a moment before the process is gone
    if C.waitpid(self.pid, status, WNOHANG) == 0 then
      C.kill(self.pid, SIGKILL)
      C.waitpid(self.pid, status, 0)
    end
  end
  C.close(self.out_fd)
  self.status = status[0] % 128 == 0 and math.floor(status[0] / 256) or false
  return self.status or nil
end

--- Send bytes to 127.0.0.1:port and read as many back (or what there is until the end, or 10 s).
function M.exchange(port, bytes)
  local fd = C.socket(AF_INET, SOCK_STREAM + SOCK_CLOEXEC, 0)
  local address = ffi.new("struct install_sockaddr")
  address.family = AF_INET
  address.port = math.floor(port / 256) + port % 256 * 256
  address.address = 0x0100007f
  local answer = {}
  if C.connect(fd, address, ffi.sizeof(address)) == 0 then
    C.send(fd, bytes, #bytes, MSG_NOSIGNAL)
    local room, left = ffi.new("char[4096]"), #bytes
    while left > 0 and readable(fd, 10000) do
      local n = tonumber(C.read(fd, room, 4096))
      if n <= 0 then
        break
      end
      answer[#answer + 1] = ffi.string(room, n)
      left = left - n
    end
  end
  C.close(fd)
  return table.concat(answer)
end

--- End what still runs and remove every folder.
function M.cleanup()
  for _, server in ipairs(servers) do
    server:stop(SIGKILL)
  end
  for _, folder in ipairs(folders) do
    os.execute("rm -rf " .. quote(folder))
  end
  servers, folders = {}, {}
end

return M
