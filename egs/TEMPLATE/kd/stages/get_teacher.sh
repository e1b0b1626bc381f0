# shellcheck shell=bash disable=SC2154
get_teacher() {
    local key
    if [ -n "${teacher}" ]; then
        once "${teacher_exp}/.done.stage6" "${teacher_type} ${teacher} ${teacher_conf}" -- \
            take_teacher
    else
        key="$(sha256sum <"${teacher_config}") ${teacher_args} ${labeled} ${token_dir}"
        finished "${teacher_exp}/.done.stage6" "${key}" || same_options "${teacher_exp}" "${key}"
        once "${teacher_exp}/.done.stage6" "${key}" -- train_teacher
    fi
}

take_teacher() {
    log "Stage 6: Take the teacher ${teacher}"
    if [ "${teacher_type}" = espnet ]; then
        shown "${logs}/fetch_teacher.log" "${module[@]}" espnet_ctckd.bin.fetch_model \
            --model "${teacher}" --output_dir "${teacher_exp}"
        shown "${logs}/copy_tokens.log" "${module[@]}" espnet_ctckd.bin.copy_tokens \
            --teacher_config "${teacher_exp}/config.yaml" --output_dir "${token_dir}"
    else
        shown "${logs}/copy_tokens.log" "${module[@]}" espnet_ctckd.bin.copy_tokens \
            "${teacher_flags[@]}" --output_dir "${token_dir}"
    fi
}

train_teacher() {
    local stats=${teacher_exp}/stats fit=fit/teacher_${teacher_tag} flags lines
    local -A reads=()
    log "Stage 6: Train the teacher with ${teacher_config} -> ${teacher_exp}/train.log"
    words flags "${teacher_args}"
    fit_data "${fit}" "" "${teacher_config}" "${labeled}" "${flags[@]}"
    lines=$(describe "${teacher_config}" "${flags[@]}")
    read_into reads "${lines}"
    set_text_flags "${fit}" "${labeled}"
    flags+=("${text_flags[@]}")
    collect "${stats}" "${teacher_config}" "${fit}" "${labeled}" "${flags[@]}"
    train_espnet "${teacher_exp}" "${teacher_config}" "${reads[normalize]}" \
        "${teacher_num_threads}" "${stats}" "${fit}" "${labeled}" "${flags[@]}"
    shown "${teacher_exp}/export.log" "${module[@]}" espnet_ctckd.bin.export_student \
        --asr_train_config "${teacher_exp}/config.yaml" \
        --asr_model_file "${teacher_exp}/valid.cer_ctc.ave.pth" \
        --output_dir "${teacher_exp}/export"
}
