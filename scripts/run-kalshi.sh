#!/usr/bin/env bash
# Records Kalshi. Usage: run-kalshi.sh [ENVIRONMENT] [options of ssmd run]
#
# ENVIRONMENT is a name in environments/ or the path of a file. Without one the account decides:
#   KALSHI_API_KEY is not set                        kalshi-local, an exchange on this machine
#   it is set                                        kalshi-dev, the demo exchange
#   it is set, and KALSHI_USE_DEMO is false or 0     kalshi-prod
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python

for argument in "$@"; do
    case $argument in
    -e | -e?* | --environment | --environment=*)
        echo "run-kalshi.sh: give the environment as the first argument: run-kalshi.sh ENVIRONMENT [options]" >&2
        exit 2
        ;;
    esac
done

if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    environment=$1
    why="as asked"
    shift
elif [ -z "${KALSHI_API_KEY:-}" ]; then
    environment=kalshi-local
    why="KALSHI_API_KEY is not set, so a simulated exchange on this machine"
else
    case $(printf %s "${KALSHI_USE_DEMO:-true}" | tr '[:upper:]' '[:lower:]') in
    false | 0)
        environment=kalshi-prod
        why="KALSHI_API_KEY is set and KALSHI_USE_DEMO is $KALSHI_USE_DEMO"
        ;;
    *)
        environment=kalshi-dev
        why="KALSHI_API_KEY is set; for production set KALSHI_USE_DEMO=false"
        ;;
    esac
fi
echo "environment: $environment ($why)"

if [ ! -x "$python" ] || ! "$python" -c 'import ssmd._native' 2>/dev/null; then
    echo "run-kalshi.sh: ssmd is not built yet" >&2
    echo "  run: make -C $root" >&2
    exit 2
fi
exec "$python" -m ssmd run -e "$environment" "$@"
