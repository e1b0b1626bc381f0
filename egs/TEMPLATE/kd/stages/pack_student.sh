# shellcheck shell=bash disable=SC2154
pack_student() {
    local flags
    log "Stage 15: Pack -> ${packed}"
    words flags "${pack_args}"
    if [ -f "${expdir}/RESULTS.md" ]; then
        flags=(--results "${expdir}/RESULTS.md" "${flags[@]}")
    fi
    if [ -f "${expdir}/report.html" ]; then
        flags=(--report "${expdir}/report.html" "${flags[@]}")
    fi
    shown "${logs}/pack.${asr_tag}.log" "${module[@]}" espnet_ctckd.bin.pack \
        --experiment "${asr_exp}" --output "${packed}" "${flags[@]}"
}
