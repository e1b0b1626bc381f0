#!/usr/bin/env bash
# Set up the environment, if need be, and run the tests.
#   bash tools/test.sh [--python <interpreter>] [arguments of pytest]
# Up to four run at a time; -n 0 behind it runs them one after another.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
setup=()
if [ "${1:-}" = --python ]; then
    setup=(--python "${2:?--python needs an interpreter}")
    shift 2
fi
environment=$(bash tools/setup.sh --extras "${CTCKD_EXTRAS:-test}" "${setup[@]}" | tee /dev/stderr)
venv=${environment##*Environment: }
export PATH="${venv}/bin:${PATH}" OMP_NUM_THREADS=1
exec "${venv}/bin/python" -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"
