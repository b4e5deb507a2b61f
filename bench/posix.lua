-- The few calls of the C library that the bench needs: one cdef, and waiting.
local ffi = require "ffi"

ffi.cdef [[
typedef struct { int fd; short events; short revents; } bench_pollfd;
typedef struct { long sec; long nsec; } bench_timespec;
typedef struct { uint16_t family; uint8_t port[2]; uint8_t address[4]; uint8_t zero[8]; } bench_sockaddr;
int fork(void);
int execvp(const char *file, char *const argv[]);
void _exit(int status);
int waitpid(int pid, int *status, int options);
int kill(int pid, int sig);
int getpid(void);
int getppid(void);
int prctl(int option, unsigned long arg2, unsigned long arg3, unsigned long arg4, unsigned long arg5);
void *signal(int sig, void *handler);
int sched_setaffinity(int pid, size_t size, const uint64_t *mask);
int sched_getaffinity(int pid, size_t size, uint64_t *mask);
int pipe2(int fds[2], int flags);
int dup2(int from, int to);
int open(const char *path, int flags, ...);
int close(int fd);
long read(int fd, void *data, size_t size);
long write(int fd, const void *data, size_t size);
long pread(int fd, void *data, size_t size, long offset);
int poll(bench_pollfd *fds, unsigned long count, int timeout_ms);
int memfd_create(const char *name, unsigned int flags);
int clock_gettime(int clock, bench_timespec *now);
int socket(int domain, int kind, int protocol);
int bind(int fd, const bench_sockaddr *address, unsigned int size);
int connect(int fd, const bench_sockaddr *address, unsigned int size);
int getsockname(int fd, bench_sockaddr *address, unsigned int *size);
void *opendir(const char *path);
int closedir(void *dir);
typedef struct { uint64_t ino; int64_t off; uint16_t reclen; uint8_t kind; char name[256]; } bench_dirent;
bench_dirent *readdir(void *dir);
char *strerror(int err);
]]

local C = ffi.C
local posix = { C = C, SIGINT = 2, SIGQUIT = 3, SIGKILL = 9, SIGPIPE = 13, SIGTERM = 15, EINTR = 4 }

local AF_INET, SOCK_STREAM_CLOEXEC = 2, 0x80001
local CLOCK_MONOTONIC = 1

function posix.error_text()
  return ffi.string(C.strerror(ffi.errno()))
end

-- Seconds, monotonic.
function posix.now()
  local time = ffi.new("bench_timespec")
  C.clock_gettime(CLOCK_MONOTONIC, time)
  return tonumber(time.sec) + tonumber(time.nsec) / 1e9
end

function posix.sleep(seconds)
  C.poll(nil, 0, math.ceil(seconds * 1000))
end

-- Calls predicate every few milliseconds until it returns something true; returns that, or nil after seconds.
function posix.wait_for(seconds, predicate)
  local deadline = posix.now() + seconds
  while true do
    local got = predicate()
    if got then return got end
    if posix.now() > deadline then return nil end
    posix.sleep(0.002)
  end
end

-- The cores this process may use, numbered from 0, the first 64 of them.
function posix.cores()
  local mask, cores = ffi.new("uint64_t[16]"), {}
  C.sched_getaffinity(0, ffi.sizeof(mask), mask)
  for core = 0, 63 do
    if bit.band(bit.rshift(mask[0], core), 1) == 1 then cores[#cores + 1] = core end
  end
  return cores
end

-- Pins the calling process.
function posix.pin(core)
  local mask = ffi.new("uint64_t[16]")
  mask[0] = bit.lshift(1ULL, core)
  return C.sched_setaffinity(0, ffi.sizeof(mask), mask) == 0
end

-- Names in a directory without . and .., or nil.
function posix.list(path)
  local dir = C.opendir(path)
  if dir == nil then return nil end
  local names = {}
  while true do
    local entry = C.readdir(dir)
    if entry == nil then break end
    local name = ffi.string(entry.name)
    if name ~= "." and name ~= ".." then names[#names + 1] = name end
  end
  C.closedir(dir)
  return names
end

local function loopback(port)
  local address = ffi.new("bench_sockaddr", { family = AF_INET, address = { 127, 0, 0, 1 } })
  address.port[0], address.port[1] = math.floor(port / 256), port % 256
  return address
end

-- A port on 127.0.0.1 that nobody listens on now.
function posix.free_port()
  local fd, address, size = C.socket(AF_INET, SOCK_STREAM_CLOEXEC, 0), loopback(0), ffi.new("unsigned int[1]", 16)
  local is_good = C.bind(fd, address, 16) == 0 and C.getsockname(fd, address, size) == 0
  C.close(fd)
  if not is_good then error("no free port on 127.0.0.1: " .. posix.error_text()) end
  return address.port[0] * 256 + address.port[1]
end

function posix.is_listening(port)
  local fd = C.socket(AF_INET, SOCK_STREAM_CLOEXEC, 0)
  local rc = C.connect(fd, loopback(port), 16)
  C.close(fd)
  return rc == 0
end

-- The same of UDP, which nobody answers.
function posix.is_receiving(port)
  local file = io.open("/proc/net/udp")
  local text = file and file:read("*a") or ""
  if file then file:close() end
  return text:find((":%04X 00000000:0000"):format(port), 1, true) ~= nil
end

return posix
