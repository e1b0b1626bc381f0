# Where jobs run. "local": on this machine. "slurm": on a cluster, with what its
# sbatch wants beside the resources in SLURM_FLAGS, e.g. "--partition gpu".
# shellcheck shell=bash disable=SC2034
cmd_backend=${cmd_backend:-local}

case "${cmd_backend}" in
    local)
        train_cmd=utils/run.sh
        cuda_cmd=utils/run.sh
        decode_cmd=utils/run.sh
        ;;
    slurm)
        export SLURM_FLAGS=${SLURM_FLAGS:-}
        train_cmd=utils/slurm.sh
        cuda_cmd=utils/slurm.sh
        decode_cmd=utils/slurm.sh
        ;;
    *)
        echo "cmd.sh: unknown cmd_backend '${cmd_backend}'; choose local or slurm" >&2
        exit 1
        ;;
esac
