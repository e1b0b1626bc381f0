# shellcheck shell=bash disable=SC2154
collect_stats() {
    fit_student
    once "${stats}/.done.stage9" \
        "${filter_flags[*]} ${local_data_opts} $(cat "${data}/${fit}"/{"${train}","${valid_set}"}/wav.scp | cksum)" -- \
        collect_student_stats
}

collect_student_stats() {
    log "Stage 9: Collect statistics -> ${stats}"
    text_flags=()
    if [ -z "${unlabeled_set}" ]; then
        set_text_flags "${fit}" "${train}"
    fi
    collect "${stats}" "${asr_config}" "${fit}" "${train}" "${student_flags[@]}" "${text_flags[@]}"
}
