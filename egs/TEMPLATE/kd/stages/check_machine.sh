# shellcheck shell=bash disable=SC2154
check_machine() {
    log "Stage 0: Check the machine, fetch the corpus"
    shown "${logs}/check_machine.log" "${module[@]}" espnet_ctckd.bin.check_env \
        --ngpu "${ngpu}" --output_dir .
    if grep -q stop_stage local/data.sh; then
        local/data.sh --stage 1 --stop_stage 1 "${data_flags[@]}"
    fi
}
