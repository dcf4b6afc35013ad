#!/bin/sh
# Is everything here that `make` needs? Names all that is missing, with the command that installs it. Changes nothing.
# Usage: check-machine.sh PYTHON CC
set -u
python=$1
cc=$2
missing=""
packages=""

lacks() { # lacks WHAT PACKAGES
    missing="$missing
  $1"
    packages="$packages $2"
}

[ "$(uname -s)" = Linux ] || lacks "Linux: the ring needs its file locks and shared memory" ""

if ! command -v "$python" >/dev/null 2>&1; then
    lacks "$python 3.11 or newer, with venv and headers" "python3 python3-venv python3-dev"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    found=$("$python" -c 'import platform; print(platform.python_version())')
    lacks "Python 3.11 or newer ($python is $found; another one: make PYTHON=/path/to/python3.11)" \
        "python3 python3-venv python3-dev"
else
    # Debian names the packages of a version python3.11-venv and so on; python3-venv is that of its default version.
    "$python" -c 'import venv, ensurepip' 2>/dev/null || lacks "the modules venv and ensurepip of $python" "python3-venv"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        lacks "the headers of $python (Python.h)" "python3-dev"
fi

if ! command -v "$cc" >/dev/null 2>&1; then
    lacks "a C compiler ($cc)" "gcc libc6-dev"
else
    folder=$(mktemp -d)
    printf '#include <stdatomic.h>\n#include <stdio.h>\nint main(void) { return 0; }\n' >"$folder/try.c"
    "$cc" -std=gnu11 -pthread -o "$folder/try" "$folder/try.c" 2>/dev/null ||
        lacks "a C compiler that works ($cc cannot build a program of three lines)" "gcc libc6-dev"
    rm -r "$folder"
fi

[ -z "$missing" ] && exit 0
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo "
echo "ssmd cannot be built yet. Missing:$missing" >&2
# shellcheck disable=SC2086
packages=$(printf '%s\n' $packages | sort -u | tr '\n' ' ')
[ -z "$packages" ] || echo "On Debian and Ubuntu:
  ${sudo}apt-get update && ${sudo}apt-get install -y $packages" >&2
exit 1
