#!/usr/bin/env bash
# Run a command on a Slurm cluster, as utils/run.sh does on one machine:
#   utils/slurm.sh [--gpu N] [--num_threads N] [--mem X] [JOB=1:N] <log> <command> ...
# Further flags for sbatch (partition, account) stand in ${SLURM_FLAGS}; see cmd.sh.
# Waits for the jobs; a failed job's log is shown, and the status is 1.
set -euo pipefail

flags=()
while [[ ${1:-} == --* ]]; do
    case "$1" in
        --gpu) [ "$2" -eq 0 ] || flags+=("--gres=gpu:$2") ;;
        --num_threads) flags+=("--cpus-per-task=$2") ;;
        --mem) flags+=("--mem=$2") ;;
        --time) flags+=("--time=$2") ;;
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

log=$1
shift
mkdir -p "$(dirname "${log}")"
script=${log//JOB/all}.sbatch
{
    echo '#!/usr/bin/env bash'
    printf 'cd %q\n' "${PWD}"
    # shellcheck disable=SC2016
    echo 'JOB=${SLURM_ARRAY_TASK_ID}'
    printf 'command=('
    printf '%q ' "$@"
    echo ')'
    printf 'log=%q\n' "${log}"
    # shellcheck disable=SC2016
    echo '"${command[@]//JOB/${JOB}}" >"${log//JOB/${JOB}}" 2>&1'
} >"${script}"
# shellcheck disable=SC2086
if ! sbatch --wait --array="${first}-${last}" --output=/dev/null "${flags[@]}" \
    ${SLURM_FLAGS:-} "${script}"; then
    echo "$0: a job failed; see ${log}. The ends of the logs:" >&2
    for ((job = first; job <= last; job++)); do
        tail -n 5 "${log//JOB/${job}}" 2>/dev/null | sed 's/^/    /' >&2 || true
    done
    exit 1
fi
