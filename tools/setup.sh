#!/usr/bin/env bash
# Make the environment of the recipes and the tests: tools/venv, with ESPnet.
#   bash tools/setup.sh [--python <interpreter>] [--extras test,dev]
# Another interpreter gets a folder of its own. A finished environment is kept; one that
# was cut off is made anew.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=python3
extras="test"
while [ $# -gt 0 ]; do
    case "$1" in
        --python) python=${2:?--python needs an interpreter} ;;
        --extras) extras=${2:?--extras needs names} ;;
        *)
            echo "$0: unknown option $1; it takes --python and --extras" >&2
            exit 2
            ;;
    esac
    shift 2
done

if ! version=$("${python}" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
    echo "$0: cannot run the interpreter '${python}'; give one with --python" >&2
    exit 1
fi
case "${version}" in
    3.10 | 3.11 | 3.12) ;;
    *)
        echo "$0: ${python} is Python ${version}; ESPnet runs on 3.10, 3.11 and 3.12: give one of them with --python" >&2
        exit 1
        ;;
esac
venv=${here}/venv
[ "${python}" = python3 ] || venv=${here}/venv${version}

wanted="${version} ${extras} $(cat "${here}/../setup.py" | cksum)"
if [ "$(cat "${venv}/.done" 2>/dev/null)" != "${wanted}" ]; then
    echo "Setting up ${venv} (about 4 minutes, 6 GB)"
    if [ ! -f "${venv}/.done" ]; then
        rm -rf "${venv}"
        "${python}" -m venv "${venv}"
    fi
    "${venv}/bin/python" -m pip install --quiet --disable-pip-version-check \
        --editable "${here}/..[${extras}]"
    # Imports are compiled once, here, and not in each of a recipe's first jobs.
    "${venv}/bin/python" -c 'import espnet_ctckd.plugin.task' 2>/dev/null
    echo "${wanted}" >"${venv}/.done"
fi
echo "Environment: ${venv}"
