#!/usr/bin/env bash
# Set up the environment, if need be, and run the demo: speech made on the spot, a
# teacher, and students with and without distillation and transcripts; ends with a table.
#   bash tools/demo.sh [--python <interpreter>] [options of egs/demo/kd/run.sh]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
setup=()
if [ "${1:-}" = --python ]; then
    setup=(--python "${2:?--python needs an interpreter}")
    shift 2
fi
environment=$(bash tools/setup.sh "${setup[@]}" | tee /dev/stderr)
export PATH="${environment##*Environment: }/bin:${PATH}"
export VIRTUAL_ENV="${environment##*Environment: }"
cd egs/demo/kd
exec ./run.sh --ngpu 0 --nj 2 "$@"
