# ssmd: make builds, make test tests, make help lists the targets. docs/build.md explains each.

PYTHON ?= python3
CC ?= cc
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(VENV)/bin/pip --disable-pip-version-check -q
PYTEST_ARGS ?=
EXTRAS ?=
FUZZ_RUNS ?= 20000
# Processes of tests. They wait more than they compute, for servers and for each other: two per core.
JOBS ?= $(shell cores=$$(nproc); echo $$((cores < 6 ? 2 * cores : 12)))

C_SOURCES := $(wildcard csrc/*.c)
C_HEADERS := $(wildcard csrc/*.h)
C_DECLARATIONS := $(wildcard csrc/cdef/*.h) csrc/build_ffi.py
C_OBJECTS := $(C_SOURCES:csrc/%.c=build/lib/%.o)
C_FORMATTED := $(sort $(C_SOURCES) $(C_HEADERS) $(wildcard csrc/tests/*.[ch] benchmarks/*.[ch]))
LIB_CFLAGS := -std=gnu11 -O3 -fPIC -fvisibility=hidden -fno-semantic-interposition -pthread -Wall -Wextra
STRICT_CFLAGS := -std=gnu11 -O2 -Icsrc -pthread -Wall -Wextra -Wconversion -Wshadow -Werror
PY_FOLDERS := $(wildcard ssmd tests benchmarks scripts/*.py csrc/build_ffi.py setup.py)

.PHONY: all test test-c check check-rest lint lint-python lint-c lint-types sanitize fuzz wheel-test slow bench clean distclean
.DELETE_ON_ERROR:

comma := ,
WANTED := $(addprefix $(VENV)/.,$(subst $(comma), ,$(EXTRAS)))

# Compiled Python too: who runs ssmd may not be allowed to write here, or is told not to, and would compile at each start.
all: $(VENV)/.built build/libssmd.so $(WANTED)
	@$(PY) -m compileall -q ssmd
	@echo "ssmd is built. Record something: ./scripts/run-kalshi.sh"

.PHONY: help
help:
	@echo "make               build everything into .venv     (EXTRAS=nats,s3,redis: with the libraries of these)"
	@echo "make test          all tests, C and Python         (PYTEST_ARGS=\"-k ring\": some of them)"
	@echo "make test-c        the C unit tests alone"
	@echo "make check         test, then lint, sanitizers, a short fuzz run, the wheel"
	@echo "make lint          formatters, linters, types, every warning of two compilers"
	@echo "make sanitize      the C unit tests under ASan, UBSan and TSan"
	@echo "make fuzz          every fuzz target              (FUZZ_RUNS=$(FUZZ_RUNS))"
	@echo "make slow          the bounded long runs that the others leave out"
	@echo "make bench         benchmarks beside other recorders"
	@echo "make clean         remove what was built, but .venv; make distclean: and .venv. Captured data is never touched"
	@echo "Another Python or compiler: make PYTHON=python3.12 CC=clang. Record something: ./scripts/run-kalshi.sh"

# ---- build -----------------------------------------------------------------------------------------------------------

$(VENV)/.venv:
	@scripts/check-machine.sh "$(PYTHON)" "$(CC)"
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The package, editable, with its C module in place (ssmd/_native.abi3.so).
$(VENV)/.built: $(VENV)/.venv pyproject.toml setup.py $(C_SOURCES) $(C_HEADERS) $(C_DECLARATIONS)
	@echo "Installing ssmd and what it needs into $(VENV); the first time it takes a minute or two"
	@$(PIP) install "setuptools>=77" "cffi>=2.0"
	@CC="$(CC)" $(PIP) install --no-build-isolation -e .
	@touch $@

# .nats, .s3, .redis, .test and so on: the libraries of that extra of pyproject.toml. The package itself is left as it
# is: `pip install '.[nats]'` would put a copy in the place of the editable one. One pip at a time, also under make -j.
$(VENV)/.%: pyproject.toml | $(VENV)/.built
	@$(PY) -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	    extras = project["optional-dependencies"]; \
	    sys.exit("no extra $*; there are: " + ", ".join(extras)) if "$*" not in extras else None; \
	    print("\n".join(extras["$*"]))' >$(VENV)/$*.txt
	@flock $(VENV) $(PIP) install -r $(VENV)/$*.txt
	@touch $@

build/lib/%.o: csrc/%.c
	@mkdir -p $(@D)
	@$(CC) $(LIB_CFLAGS) -MMD -MP -c -o $@ $<

build/libssmd.so: $(C_OBJECTS)
	@$(CC) -shared -pthread -o $@ $^

-include $(C_OBJECTS:.o=.d)

# ---- tests -----------------------------------------------------------------------------------------------------------

# One run of pytest: the C unit tests are tests of it (tests/test_csrc.py). It ends with a list of what was not run.
# JOBS=0: all in one process, in the order of the files.
test: all $(VENV)/.test
	@scripts/install-test-tools.sh test
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m "not slow and not wheel" $(PYTEST_ARGS)

# What scripts/run-loopback.sh needs beside ssmd itself: libraries, and servers to start.
.PHONY: loopback-tools
loopback-tools: all $(VENV)/.test
	@scripts/install-test-tools.sh servers

test-c:
	$(MAKE) -s -C csrc/tests check

slow: all $(VENV)/.test
	$(PY) -m pytest -m slow $(PYTEST_ARGS)

wheel-test: all $(VENV)/.test
	$(PY) -m pytest -m wheel $(PYTEST_ARGS)

# ---- checks ----------------------------------------------------------------------------------------------------------

# .ci/run calls the same in steps.
check: test check-rest

# What `make check` does beyond `make test`.
check-rest: check-tools lint sanitize fuzz wheel-test

.PHONY: check-tools
check-tools:
	@scripts/install-test-tools.sh check

lint: lint-python lint-types lint-c

lint-python: all $(VENV)/.test $(VENV)/.dev
	$(PY) -m ruff check $(PY_FOLDERS)
	$(PY) -m ruff format --check $(PY_FOLDERS)
	$(PY) -m pytest tests/test_layers.py

lint-types: all $(VENV)/.test $(VENV)/.dev
	$(PY) -m mypy

lint-c: $(foreach checker,gcc clang tidy,$(C_SOURCES:csrc/%.c=build/strict/$(checker)/%.o))
	clang-format --dry-run -Werror $(C_FORMATTED)

# Every warning that style asks for is an error, with two compilers.
build/strict/gcc/%.o: csrc/%.c $(C_HEADERS)
	@mkdir -p $(@D)
	gcc $(STRICT_CFLAGS) -c -o $@ $<

build/strict/clang/%.o: csrc/%.c $(C_HEADERS)
	@mkdir -p $(@D)
	clang $(STRICT_CFLAGS) -c -o $@ $<

# Makes no object: the file says that there was nothing to say.
build/strict/tidy/%.o: csrc/%.c $(C_HEADERS) .clang-tidy
	@mkdir -p $(@D)
	clang-tidy --quiet $< -- -std=gnu11 -Icsrc
	@touch $@

sanitize:
	$(MAKE) -s -C csrc/tests asan
	$(MAKE) -s -C csrc/tests tsan
	$(MAKE) -s -C csrc/tests tsan-planted

fuzz:
	$(MAKE) -s -C csrc/tests -f fuzz.mk fuzz RUNS=$(FUZZ_RUNS)

# ---- the rest --------------------------------------------------------------------------------------------------------

bench: all $(VENV)/.bench
	$(PY) benchmarks/run.py $(BENCH_ARGS)

# Captured data is never touched.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis csrc/build
	rm -f ssmd/_native.* $(VENV)/.built
	find ssmd tests benchmarks csrc -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf $(VENV)
