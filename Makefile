# Rille: `make run` starts the server, `make test` runs every test. Both install what is missing first.
#
# core/*.c becomes one library, lua/rille/core.so, which leaves lua_* undefined: the luajit that loads it serves them.

CC         ?= cc
CFLAGS     ?= -O2 -g
PKG_CONFIG ?= pkg-config
LUAJIT     ?= luajit
CONF       ?= conf/rille.lua
JOBS       ?= $(shell nproc)

PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/bin
LUADIR  ?= $(PREFIX)/share/lua/5.1
LIBDIR  ?= $(PREFIX)/lib/lua/5.1
DATADIR ?= $(PREFIX)/share/rille
DOCDIR  ?= $(PREFIX)/share/doc/rille

# A sanitizer build sets these three.
BUILD    ?= build
CORE     ?= lua/rille/core.so
SANITIZE ?=
# make V=1 shows the commands
Q = $(if $(V),,@echo "  $@";)

# LuaJIT's headers: LUA_INCDIR if luajit.h is there (luarocks may name those of another Lua), else what pkg-config knows.
LUAJIT_INC = $(if $(wildcard $(LUA_INCDIR)/luajit.h),$(LUA_INCDIR),$(shell $(PKG_CONFIG) --variable=includedir luajit 2>/dev/null))
NO_HEADERS = luajit.h not found: install libluajit-5.1-dev, or set LUA_INCDIR to the directory that holds it
WRONG_LUA  = $(shell grep -hsE 'define LUA_VERSION_NUM' $(LUA_INCDIR)/lua.h | grep -v 501)

# DNS is c-ares'.
CARES_INC := $(shell $(PKG_CONFIG) --cflags libcares 2>/dev/null)
HAS_CARES := $(shell echo 'int main(void) { return 0; }' | $(CC) $(CARES_INC) -include ares.h -x c -fsyntax-only - 2>/dev/null && echo yes)
CARES     := $(or $(shell $(PKG_CONFIG) --libs libcares 2>/dev/null),-lcares)

# The library is optimised as a whole, where the compiler can: its files are small, and the way of a byte crosses many. Tests link
# the ordinary code that fat objects hold as well.
WHOLE   := -flto=auto -ffat-lto-objects -fno-semantic-interposition
HAS_LTO := $(shell echo 'int main(void) { return 0; }' | $(CC) -Werror $(WHOLE) -x c - -o /dev/null 2>/dev/null && echo yes)
LTO      = $(if $(SANITIZE),,$(if $(HAS_LTO),$(WHOLE)))

# libraries of the system
PACKAGES = openssl
LIBS     = $(shell $(PKG_CONFIG) --libs $(PACKAGES))

C_FLAGS = -std=c11 -D_GNU_SOURCE -pthread -fPIC -fvisibility=hidden -Wall -Wextra -Wshadow -Wconversion \
          -I$(LUAJIT_INC) $(CARES_INC) $(shell $(PKG_CONFIG) --cflags $(PACKAGES)) $(CFLAGS) $(SANITIZE)
OBJECTS = $(patsubst core/%.c,$(BUILD)/core/%.o,$(wildcard core/*.c)) $(BUILD)/cdef.o
C_TESTS = $(patsubst spec/c/%.c,$(BUILD)/spec/%,$(wildcard spec/c/*_test.c))
C_TOOLS = $(patsubst spec/c/%.c,$(BUILD)/spec/%,$(wildcard spec/c/*_tool.c))
SPECS   = $(shell find spec -name '*_spec.lua' | LC_ALL=C sort)

.PHONY: all build run test model fuzz bench torture check lint lint-core fmt asan tsan install uninstall clean deps test-deps core c-tests FORCE
.DELETE_ON_ERROR:

all: build

# ---- build ----------------------------------------------------------------------------------------------------------
# Two makes in one tree take turns, so that neither links what the other is still writing.

build:
	$(if $(WRONG_LUA),$(error Rille runs on LuaJIT, which is Lua 5.1: $(LUA_INCDIR)/lua.h is of another version))
	$(if $(LUAJIT_INC),,$(error $(NO_HEADERS)))
	$(if $(HAS_CARES),,$(error ares.h not found: install libc-ares-dev))
	@mkdir -p $(BUILD) && flock $(BUILD)/lock $(MAKE) --no-print-directory -j$(JOBS) core

core: $(CORE)
	@:

$(CORE): $(OBJECTS)
	@mkdir -p $(@D)
	$(Q)$(CC) -shared -pthread $(CFLAGS) $(SANITIZE) $(LTO) -Wl,-Bsymbolic-functions -Wl,-z,nodelete,-z,now $(LDFLAGS) $^ $(CARES) $(LIBS) -lm -o $@.new
	@mv $@.new $@

# core/export.h makes what rille.h declares visible; everything else stays inside the library.
$(BUILD)/core/%.o: core/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(C_FLAGS) $(LTO) -include core/export.h -MMD -MP -c $< -o $@

# The text of rille.h as Lua sees it, a C string in the library: no declaration is written twice.
$(BUILD)/cdef.c: $(wildcard core/rille*.h) Makefile
	@mkdir -p $(@D)
	@$(CC) -E -P -DRILLE_CDEF $< -o $(BUILD)/cdef.txt
	@{ echo '#include "rille.h"'; echo 'const char *rille_cdef(void) { return'; \
	  sed -e 's/[\\"]/\\&/g' -e 's/.*/"&\\n"/' $(BUILD)/cdef.txt; echo '; }'; } > $@

$(BUILD)/cdef.o: $(BUILD)/cdef.c $(BUILD)/flags
	$(Q)$(CC) $(C_FLAGS) -Icore -include core/export.h -c $< -o $@

# Rewritten when compiler or flags change, which rebuilds all.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D); echo '$(CC) $(C_FLAGS) $(LTO)' | cmp -s - $@ || echo '$(CC) $(C_FLAGS) $(LTO)' > $@

$(BUILD)/spec/%: spec/c/%.c $(OBJECTS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(C_FLAGS) -fno-lto -Icore -MMD -MP $< $(OBJECTS) -rdynamic $(LDFLAGS) -lcmocka \
	  $$($(PKG_CONFIG) --libs luajit) $(CARES) $(LIBS) -lm -o $@

-include $(wildcard $(BUILD)/core/*.d $(BUILD)/spec/*.d)

# ---- run and test ---------------------------------------------------------------------------------------------------

deps:
	@.ci/deps run

test-deps:
	@.ci/deps run test

run: deps build
	@exec bin/rille run --conf $(CONF)

check: build
	@bin/rille check --conf $(CONF)

test: test-deps build
	@flock $(BUILD)/lock $(MAKE) --no-print-directory -j$(JOBS) c-tests
	@TEST_JOBS=$${TEST_JOBS:-2} LUAJIT=$(LUAJIT) .ci/tests $(C_TESTS) $(SPECS)

c-tests: $(C_TESTS) $(C_TOOLS)
	@:

# ---- sanitizers -----------------------------------------------------------------------------------------------------
# The same tests with another library: RILLE_CORE tells lua/rille/core.lua which one. Servers that specs start inherit it.

ASAN = BUILD=build/asan CORE=build/asan/core.so \
       SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -DRILLE_CHECKED'
TSAN = BUILD=build/tsan CORE=build/tsan/core.so SANITIZE=-fsanitize=thread

asan: test-deps
	@$(MAKE) --no-print-directory build $(ASAN)
	@$(MAKE) --no-print-directory -j$(JOBS) c-tests $(ASAN)
	@RILLE_CORE=$(CURDIR)/build/asan/core.so LUAJIT=$(LUAJIT) \
	  PRELOAD="$$($(CC) -print-file-name=libasan.so):$$($(CC) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=1:halt_on_error=1:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	  LSAN_OPTIONS=exitcode=0:suppressions=$(CURDIR)/.ci/lsan.supp:print_suppressions=0 \
	  .ci/tests $(patsubst build/%,build/asan/%,$(C_TESTS)) $(SPECS)

# C tests that start threads
# specs whose servers run several loops; only the server is run under the sanitizer
RACING_SPECS = spec/loops_spec.lua spec/matrix_spec.lua spec/topic_spec.lua spec/pool_spec.lua spec/pool_server_spec.lua \
               spec/state_spec.lua spec/state_handover_spec.lua spec/accept_spec.lua spec/listen_spec.lua spec/prefork_spec.lua spec/systemd_spec.lua \
               spec/udp_spec.lua spec/udp_session_spec.lua spec/reload_udp_spec.lua spec/conn_move_spec.lua spec/close_race_spec.lua \
               spec/stream_spec.lua spec/offload_spec.lua spec/http/offload_spec.lua spec/fs_spec.lua spec/process_spec.lua spec/http/cold_file_spec.lua \
               spec/status_spec.lua spec/metric_spec.lua spec/leaks_spec.lua spec/chunk_spec.lua spec/bind_spec.lua \
               spec/reload_spec.lua spec/reload_begun_spec.lua spec/reload_canary_spec.lua spec/reload_conf_spec.lua \
               spec/reload_conn_spec.lua spec/reload_ctx_spec.lua spec/reload_leak_spec.lua spec/reload_pool_spec.lua \
               spec/reload_refused_spec.lua spec/reload_slice_spec.lua spec/reload_start_spec.lua spec/reload_status_spec.lua \
               spec/reload_watch_spec.lua spec/mqtt_broker_spec.lua spec/tls_offload_spec.lua spec/tls_resume_spec.lua \
               spec/dict_redis_spec.lua spec/topic_bridge_spec.lua spec/upstream_server_spec.lua spec/udp_socket_spec.lua \
               spec/scripts/device_gateway_spec.lua
RACES = $(sort $(wildcard spec/c/*_race_test.c) $(shell grep -l pthread_create spec/c/*_test.c 2>/dev/null))
tsan: test-deps build
	@$(MAKE) --no-print-directory build $(TSAN)
	@$(MAKE) --no-print-directory -j$(JOBS) $(patsubst spec/c/%.c,build/tsan/spec/%,$(RACES)) $(TSAN)
	@TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 .ci/tests $(patsubst spec/c/%.c,build/tsan/spec/%,$(RACES))
	@printf '#!/bin/sh\nexec env LD_PRELOAD="%s" RILLE_CORE="%s" "%s" "$$@"\n' "$$($(CC) -print-file-name=libtsan.so)" \
	  "$(CURDIR)/build/tsan/core.so" $(LUAJIT) >build/tsan/luajit; chmod +x build/tsan/luajit
	@RILLE_LUAJIT=$(CURDIR)/build/tsan/luajit TSAN_OPTIONS=halt_on_error=1 LUAJIT=$(LUAJIT) .ci/tests $(RACING_SPECS)

# ---- more of what `make test` does a little of -----------------------------------------------------------------------

# More random inputs beside the models of the decoders of HTTP, of framings and of MQTT: make model [COUNT=1000000] [SEED=1] (a failure names its seed).
COUNT ?= 1000000
model: test-deps build
	@flock $(BUILD)/lock $(MAKE) --no-print-directory $(C_TOOLS)
	@COUNT=$(COUNT) SEED=$(SEED) TIMEOUT=$$(($(COUNT) / 5000 + 120)) LUAJIT=$(LUAJIT) .ci/tests \
	  spec/http_decode_spec.lua spec/codec_model_spec.lua spec/mqtt_fuzz_spec.lua spec/redis_route_spec.lua

# Each fuzzer for a while, from its corpus: make fuzz [FUZZ_SECONDS=60]. An input that fails is put among the regressions. What is decoded in Lua
# has its own: bad packets of MQTT, alone and sent to a broker. Last, so many random inputs beside the models of the framings (5 minutes).
FUZZ_SECONDS ?= 60
FUZZ_INPUTS  ?= 10000000
FUZZERS       = http_head http_chunk http_reply codec_length_field codec_netstring codec_resp proxy_head dns_message redis_commands
fuzz:
	@.ci/deps run test fuzz
	@$(MAKE) --no-print-directory $(FUZZERS:%=build/fuzz/%)
	@for f in $(FUZZERS); do mkdir -p build/fuzz/corpus/$$f && \
	  build/fuzz/$$f -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -dict=spec/fuzz/http.dict -print_final_stats=1 \
	    -artifact_prefix=spec/fuzz/regress/$$f/ build/fuzz/corpus/$$f spec/fuzz/corpus/$$f spec/fuzz/regress/$$f || exit; done
	@$(MAKE) --no-print-directory build
	@COUNT=$$(($(FUZZ_SECONDS) * 3000)) SEED=$(SEED) TIMEOUT=$$(($(FUZZ_SECONDS) * 10 + 120)) LUAJIT=$(LUAJIT) .ci/tests spec/mqtt_fuzz_spec.lua
	@$(MAKE) --no-print-directory $(BUILD)/spec/codec_tool
	@COUNT=$(FUZZ_INPUTS) SEED=$(SEED) TIMEOUT=$$(($(FUZZ_INPUTS) / 5000 + 120)) LUAJIT=$(LUAJIT) .ci/tests spec/codec_model_spec.lua

build/fuzz/http_%: FUZZED = core/http_head.c core/http_chunk.c core/http_reply.c core/http_target.c
build/fuzz/proxy_head: FUZZED = core/proxy_head.c core/checksum.c core/peer.c
build/fuzz/dns_message: FUZZED = core/dns_message.c core/dns_cache.c
build/fuzz/redis_%: FUZZED = core/redis.c core/checksum.c $(wildcard core/codec*.c core/linkbuffer*.c) core/block.c core/cache.c core/cell.c core/slice.c
build/fuzz/codec_%: FUZZED = $(wildcard core/codec*.c core/linkbuffer*.c) core/block.c core/cache.c core/cell.c core/slice.c
build/fuzz/%: spec/fuzz/%_fuzz.c $(wildcard core/*.[ch] spec/*/*.h)
	@mkdir -p $(@D)
	$(Q)clang -std=c11 -D_GNU_SOURCE -Wall -Wextra -O1 -g -fsanitize=fuzzer,address,undefined \
	  -fno-sanitize-recover=undefined -Icore $< $(FUZZED) -o $@

# ---- bench and lint -------------------------------------------------------------------------------------------------

comma := ,
# loads that share load.c
BENCH_LOADS = client connects_client fanout_client http_client reload_client rpc_client tail_client tls_client

bench: deps build $(addprefix build/bench/,$(BENCH_LOADS) echo http fanout udp table.so)
	$(if $(filter dns tls redis,$(subst $(comma), ,$(BENCH))),@.ci/deps bench)
	@LUA_PATH="lua/?.lua;lua/?/init.lua;;" $(LUAJIT) bench/run.lua $(BENCH)

# A server treated as badly as TCP allows: make torture [SECONDS=20] [SEED=1] (a failure names its seed). Then so many rounds of each race of
# a connection's end: [RILLE_ROUNDS=1000], which asan and tsan take as well, with SPECS or RACING_SPECS=spec/close_race_spec.lua.
SECONDS ?= 20
SEED    ?=
torture: build build/bench/torture
	@timeout $$(($(SECONDS) + 60)) build/bench/torture $(SECONDS) $(SEED)
	@RILLE_ROUNDS=$${RILLE_ROUNDS:-1000} TIMEOUT=$${TIMEOUT:-900} LUAJIT=$(LUAJIT) .ci/tests spec/close_race_spec.lua spec/reload_load_spec.lua

build/bench/echo build/bench/http: build/bench/%: bench/baseline/%.c bench/baseline/serve.c bench/baseline/serve.h
$(addprefix build/bench/,$(BENCH_LOADS)): build/bench/%: bench/%.c bench/load.c bench/load.h
build/bench/fanout: bench/baseline/fanout.c bench/baseline/serve.h
build/bench/udp: bench/baseline/udp.c
build/bench/tls_client: BENCH_LIBS = $(LIBS)
build/bench/torture: bench/torture.c
build/bench/pump: bench/baseline/pump.c
build/bench/table.so: bench/baseline/table.c
build/bench/table.so: SHARED = -fPIC -shared
build/bench/%:
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c11 -D_GNU_SOURCE -pthread -Wall -Wextra -O2 -g $(SHARED) $(filter %.c,$^) $(BENCH_LIBS) -lm -o $@

# Other versions format otherwise and find other things: `make lint LLVM=` takes the system's default.
LLVM    ?= -14
C_FILES  = $(wildcard core/*.[ch] spec/c/*.[ch] spec/fuzz/*.[ch] bench/*.[ch] bench/baseline/*.[ch])

lint:
	@.ci/deps run lint
	@clang-format$(LLVM) --dry-run -Werror $(C_FILES)
	luacheck -q lua spec scripts conf bench rockspec bin/rille
	@$(MAKE) --no-print-directory -j$(JOBS) lint-core

# A file that both analyzers have nothing to say of leaves its object here. gcc's sees most without optimisation; leaks are
# clang's and `make asan`'s to find, as gcc 12 loses sight of a pointer that was stored in a structure.
ANALYZER = gcc $(C_FLAGS) -O0 -fanalyzer -Wno-analyzer-malloc-leak -Werror
lint-core: $(patsubst core/%.c,$(BUILD)/lint/%.o,$(wildcard core/*.c))

$(BUILD)/lint/%.o: core/%.c $(wildcard core/*.h) .clang-tidy
	@mkdir -p $(@D)
	$(Q)clang-tidy$(LLVM) --quiet $< -- $(C_FLAGS) >$@.log 2>&1 || { cat $@.log; exit 1; }
	@$(ANALYZER) -c $< -o $@

fmt:
	clang-format$(LLVM) -i $(C_FILES)

# ---- install --------------------------------------------------------------------------------------------------------

MODULES = $(shell cd lua && find rille -name '*.lua')
DATA    = $(wildcard conf/* scripts/*)
DOCS    = $(wildcard README.md LICENSE CHANGELOG.md docs/*)

install: build
	@install -D -m 755 bin/rille "$(DESTDIR)$(BINDIR)/rille"
	@install -D -m 755 $(CORE) "$(DESTDIR)$(LIBDIR)/rille/core.so"
	@for f in $(MODULES); do install -D -m 644 lua/$$f "$(DESTDIR)$(LUADIR)/$$f" || exit; done
	@for f in $(DATA); do install -D -m 644 $$f "$(DESTDIR)$(DATADIR)/$$f" || exit; done
	@for f in $(DOCS); do install -D -m 644 $$f "$(DESTDIR)$(DOCDIR)/$$f" || exit; done

uninstall:
	rm -f "$(DESTDIR)$(BINDIR)/rille" "$(DESTDIR)$(LIBDIR)/rille/core.so"
	@for f in $(MODULES); do rm -f "$(DESTDIR)$(LUADIR)/$$f"; done
	@for f in $(DATA); do rm -f "$(DESTDIR)$(DATADIR)/$$f"; done
	@for f in $(DOCS); do rm -f "$(DESTDIR)$(DOCDIR)/$$f"; done
	@for d in "$(LIBDIR)/rille" "$(LUADIR)/rille" "$(DATADIR)" "$(DOCDIR)"; do \
	  [ ! -d "$(DESTDIR)$$d" ] || find "$(DESTDIR)$$d" -depth -type d -empty -delete; done

clean:
	rm -rf build lua/rille/core.so lua/rille/core.so.new
