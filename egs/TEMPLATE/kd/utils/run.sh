#!/usr/bin/env bash
# Run a command on this machine, once or in parallel, each with a log of its own:
#   utils/run.sh [--gpu N] [--num_threads N] [--mem X] [JOB=1:N] <log> <command> ...
# JOB in the log's name and in the command is replaced by 1 to N. A failed job's log
# is shown, and the status is 1.
set -uo pipefail

num_threads=
while [[ ${1:-} == --* ]]; do
    case "$1" in
        --num_threads) num_threads=$2 ;;
        --gpu | --mem | --time) ;; # for clusters
        *)
            echo "$0: unknown option $1" >&2
            exit 1
            ;;
    esac
    shift 2
done
first=1
last=1
if [[ ${1:-} =~ ^JOB=([0-9]+):([0-9]+)$ ]]; then
    first=${BASH_REMATCH[1]}
    last=${BASH_REMATCH[2]}
    shift
fi
if [ $# -lt 2 ]; then
    echo "Usage: $0 [options] [JOB=1:N] <log> <command> ..." >&2
    exit 1
fi
if [ -n "${num_threads}" ]; then
    export OMP_NUM_THREADS=${num_threads}
fi

log=$1
shift
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait; exit 130' INT TERM
for ((job = first; job <= last; job++)); do
    file=${log//JOB/${job}}
    mkdir -p "$(dirname "${file}")"
    {
        echo "# ${*//JOB/${job}}"
        echo "# Started at $(date)"
    } >"${file}"
    "${@//JOB/${job}}" >>"${file}" 2>&1 </dev/null &
    pids+=($!)
done

failed=()
job=${first}
for pid in "${pids[@]}"; do
    wait "${pid}"
    code=$?
    file=${log//JOB/${job}}
    echo "# Ended (code ${code}) at $(date)" >>"${file}"
    [ "${code}" -eq 0 ] || failed+=("${file}")
    job=$((job + 1))
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "$0: ${#failed[@]} of $((last - first + 1)) jobs failed. The end of ${failed[0]}:" >&2
    tail -n 15 "${failed[0]}" | sed 's/^/    /' >&2
    exit 1
fi
