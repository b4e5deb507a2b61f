-- net: the system calls behind the specs' clients and servers, with names of their own (another helper may declare the same
-- functions with other types in this process), and the deadlines everything waits with.

local ffi = require "ffi"
local bit = require "bit"

ffi.cdef [[
struct net_pollfd { int fd; short events, revents; };
struct net_time { long seconds, nanoseconds; };
struct net_in { uint16_t family, port; uint8_t ip[4]; char zero[8]; };
struct net_in6 { uint16_t family, port; uint32_t flow; uint8_t ip[16]; uint32_t scope; };
struct net_un { uint16_t family; char path[108]; };
struct net_linger { int on, seconds; };
struct net_limit { unsigned long soft, hard; };
typedef struct { char opaque[1024]; } net_actions;
typedef struct { char opaque[1024]; } net_attributes;
typedef struct { unsigned long bits[16]; } net_sigset;

int net_socket(int family, int type, int protocol) __asm__("socket");
int net_socketpair(int family, int type, int protocol, int fds[2]) __asm__("socketpair");
int net_connect(int fd, const void *address, unsigned size) __asm__("connect");
int net_bind(int fd, const void *address, unsigned size) __asm__("bind");
int net_listen(int fd, int backlog) __asm__("listen");
int net_getsockname(int fd, void *address, unsigned *size) __asm__("getsockname");
int net_setsockopt(int fd, int level, int name, const void *value, unsigned size) __asm__("setsockopt");
int net_getsockopt(int fd, int level, int name, void *value, unsigned *size) __asm__("getsockopt");
long net_send(int fd, const void *from, size_t size, int flags) __asm__("send");
long net_recv(int fd, void *to, size_t size, int flags) __asm__("recv");
int net_shutdown(int fd, int how) __asm__("shutdown");
int net_close(int fd) __asm__("close");
int net_poll(struct net_pollfd *fds, unsigned long count, int timeout_ms) __asm__("poll");
int net_clock(int clock, struct net_time *to) __asm__("clock_gettime");
int net_compare(const void *a, const void *b, size_t size) __asm__("memcmp");
int net_getrlimit(int what, struct net_limit *to) __asm__("getrlimit");
int net_setrlimit(int what, const struct net_limit *from) __asm__("setrlimit");
char *net_mkdtemp(char *template) __asm__("mkdtemp");
int net_getpid(void) __asm__("getpid");
char *net_getcwd(char *to, size_t size) __asm__("getcwd");

int net_fcntl(int fd, int command, ...) __asm__("fcntl");
int net_kill(int pid, int signal) __asm__("kill");
int net_waitpid(int pid, int *status, int options) __asm__("waitpid");
int net_pidfd_open(int pid, unsigned flags) __asm__("pidfd_open");
int net_actions_init(net_actions *) __asm__("posix_spawn_file_actions_init");
int net_actions_open(net_actions *, int fd, const char *path, int flags, unsigned mode)
  __asm__("posix_spawn_file_actions_addopen");
int net_actions_dup2(net_actions *, int from, int to) __asm__("posix_spawn_file_actions_adddup2");
int net_actions_destroy(net_actions *) __asm__("posix_spawn_file_actions_destroy");
int net_attributes_init(net_attributes *) __asm__("posix_spawnattr_init");
int net_attributes_destroy(net_attributes *) __asm__("posix_spawnattr_destroy");
int net_attributes_flags(net_attributes *, short flags) __asm__("posix_spawnattr_setflags");
int net_attributes_mask(net_attributes *, const net_sigset *) __asm__("posix_spawnattr_setsigmask");
int net_sigemptyset(net_sigset *) __asm__("sigemptyset");
int net_spawn(int *pid, const char *file, const net_actions *, const net_attributes *, char *const argv[],
              char *const env[]) __asm__("posix_spawnp");
extern char **net_environ __asm__("environ");
]]

local C = ffi.C

local M = {
  C = C,
  AF_UNIX = 1, AF_INET = 2, AF_INET6 = 10,
  POLLIN = 1, POLLOUT = 4, POLLERR = 8, POLLHUP = 16,
  EINTR = 4, EAGAIN = 11, EPIPE = 32, ECONNRESET = 104, EINPROGRESS = 115, ECONNREFUSED = 111,
}

-- How much longer everything may take here: RILLE_SLOW, or a sanitizer.
M.slow = tonumber(os.getenv("RILLE_SLOW")) or ((os.getenv("LD_PRELOAD") or ""):find("san", 1, true) and 5) or 1

-- Specs about sizes and times are of no use under a sanitizer.
M.is_sanitized = ((os.getenv("LD_PRELOAD") or "") .. (os.getenv("RILLE_CORE") or "")):find("san", 1, true) ~= nil
-- Or only the servers that a spec starts: the memory they have is not what they use.
M.has_sanitized_servers = M.is_sanitized or (os.getenv("RILLE_LUAJIT") or ""):find("san", 1, true) ~= nil

local time_box = ffi.new("struct net_time")

-- Seconds, monotonic; the clock that rille.now() has.
function M.now()
  C.net_clock(1, time_box)
  return tonumber(time_box.seconds) + tonumber(time_box.nanoseconds) / 1e9
end

-- Now and so many seconds, more on a slow machine.
function M.deadline(seconds)
  return M.now() + (seconds or 5) * M.slow
end

-- A nap of some ms between two looks at something that cannot be polled (a log file, /proc).
function M.nap(ms)
  C.net_poll(nil, 0, ms)
end

-- Call look() until it returns something, with naps; nil when the time is over.
function M.poll_until(look, seconds)
  local deadline = M.deadline(seconds)
  local ms = 1
  while true do
    local result = look()
    if result then return result end
    if M.now() > deadline then return nil end
    M.nap(ms)
    if ms < 8 then ms = ms + 1 end
  end
end

local poll_box = ffi.new("struct net_pollfd[1]")

-- Wait until fd is ready for events: what is there, or nil at the deadline.
function M.wait(fd, events, deadline)
  while true do
    local left = deadline - M.now()
    poll_box[0].fd, poll_box[0].events, poll_box[0].revents = fd, events, 0
    local count = C.net_poll(poll_box, 1, left > 0 and math.ceil(left * 1000) or 0)
    if count > 0 then return poll_box[0].revents end
    if count == 0 and left <= 0 then return nil end
  end
end

local NAMES = { [4] = "EINTR", [11] = "EAGAIN", [32] = "EPIPE", [104] = "ECONNRESET", [111] = "ECONNREFUSED" }
function M.errno_name(number)
  return NAMES[number] or ("errno " .. number)
end

-- Room for many clients in this process.
function M.raise_descriptor_limit()
  local limit = ffi.new("struct net_limit")
  if C.net_getrlimit(7, limit) ~= 0 then return end
  limit.soft = limit.hard
  C.net_setrlimit(7, limit)
end

function M.set_option(fd, level, name, value)
  local box = ffi.new("int[1]", value)
  return C.net_setsockopt(fd, level, name, box, 4) == 0
end

-- family, address struct, size of a URL.
function M.parse(url)
  url = url:gsub("^http:", "tcp:")
  local abstract = url:match("^unix:@(.+)$")
  local path = abstract or url:match("^unix://(/.+)$")
  if path then
    local un = ffi.new("struct net_un")
    un.family = M.AF_UNIX
    ffi.copy(un.path + (abstract and 1 or 0), path, #path)
    return M.AF_UNIX, un, 2 + #path + 1
  end
  local ip6, port6 = url:match("^tcp6?://%[([%x:]+)%]:(%d+)$")
  if ip6 then
    assert(ip6 == "::1", "the specs' client knows [::1] only")
    local in6 = ffi.new("struct net_in6")
    in6.family = M.AF_INET6
    in6.port = bit.rshift(bit.bswap(tonumber(port6)), 16)
    in6.ip[15] = 1
    return M.AF_INET6, in6, ffi.sizeof(in6)
  end
  local a, b, c, d, port = url:match("^tcp4?://(%d+)%.(%d+)%.(%d+)%.(%d+):(%d+)$")
  assert(a, "the specs' client does not understand " .. url)
  local in4 = ffi.new("struct net_in")
  in4.family = M.AF_INET
  in4.port = bit.rshift(bit.bswap(tonumber(port)), 16)
  in4.ip[0], in4.ip[1], in4.ip[2], in4.ip[3] = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  return M.AF_INET, in4, ffi.sizeof(in4)
end

-- A port of 127.0.0.1 that others are unlikely to choose at the same time (math.random is the same in every process), below those that
-- clients are given: thousands of these may be in use, or have just been. For datagrams as well as streams.
function M.some_port()
  local file = assert(io.open("/dev/urandom", "rb"))
  local a, b = file:read(2):byte(1, 2)
  file:close()
  return 20000 + (a * 256 + b) % 10000
end

-- The same, that no stream has or has just had.
function M.free_port()
  while true do
    local port = M.some_port()
    local family, address, size = M.parse("tcp://127.0.0.1:" .. port)
    local fd = C.net_socket(family, 1, 0) -- SOCK_STREAM
    local is_free = C.net_bind(fd, address, size) == 0
    C.net_close(fd)
    if is_free then return port end
  end
end

-- Bytes that look random and differ with the seed; the same ones each time.
function M.noise(size, seed)
  local words = math.ceil(size / 4)
  local room = ffi.new("uint32_t[?]", words)
  local x = bit.tobit((seed or 1) * 2654435761 + 12345)
  for i = 0, words - 1 do
    x = bit.bxor(x, bit.lshift(x, 13))
    x = bit.bxor(x, bit.rshift(x, 17))
    x = bit.bxor(x, bit.lshift(x, 5))
    room[i] = x
  end
  return ffi.string(room, size)
end

return M
