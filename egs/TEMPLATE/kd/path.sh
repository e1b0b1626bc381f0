# The environment of the recipes: the one that tools/setup.sh made, if it is there and
# no other is active.
# shellcheck shell=bash
_tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../tools" && pwd)
if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ] && [ -x "${_tools}/venv/bin/python3" ]; then
    export PATH="${_tools}/venv/bin:${PATH}"
fi
export LC_ALL=C.UTF-8
export PYTHONUNBUFFERED=1
export PYTHONIOENCODING=UTF-8
# One thread a job: the recipes run several jobs side by side.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
