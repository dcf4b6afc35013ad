#!/usr/bin/env bash
# The whole path on this machine, and its proof: a simulated exchange, the recorder, NATS, Redis and a stand-in for S3,
# all on free ports of loopback; it records, stops, lets publisher and archiver finish, and compares what is in the
# journal, in the stream, in the bucket and in the exchange's own ledger. Exit code 0: they are the same, once each.
#
# Usage: run-loopback.sh [--duration SECONDS] [--data DIR] [--keep] [--set KEY.PATH=VALUE ...] [--no-install]
#
# DIR must be new or empty; without --data it is a temporary folder, which is removed at the end. --keep leaves servers
# and data up after the comparison, until ^C, and prints what can be tried on them meanwhile. What is missing
# on this machine (servers, Python libraries) is installed first, into .venv and by apt-get where that is allowed, or
# named. Whatever was started is stopped, also by ^C, kill, and kill -9.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${SSMD_PYTHON:-$root/.venv/bin/python}

install=yes
for argument in "$@"; do
    [ "$argument" = --no-install ] && install=no
done

if [ ! -x "$python" ] || ! "$python" -c 'import ssmd._native' 2>/dev/null; then
    echo "run-loopback.sh: ssmd is not built yet" >&2
    echo "  run: make -C $root" >&2
    exit 2
fi
if [ "$install" = yes ] && ! "$python" "$root/scripts/loopback.py" --look 2>/dev/null; then
    echo "This installs what the run needs (nats-server, redis-server, nats-py, obstore, redis, moto): a minute or two"
    make -s -C "$root" loopback-tools || true
fi
# exec: signals reach the program itself, which stops what it started
exec "$python" "$root/scripts/loopback.py" "$@"
