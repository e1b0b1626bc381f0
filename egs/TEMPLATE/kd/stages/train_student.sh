# shellcheck shell=bash disable=SC2154
train_student() {
    local key
    key="$(sha256sum <"${asr_config}") ${asr_args} ${train} ${token_dir} ${cache} ${feats_normalize} ${pretrained_model}"
    finished "${asr_exp}/.done.stage10" "${key}" || same_options "${asr_exp}" "${key}"
    once "${asr_exp}/.done.stage10" "${key}" -- train_distilled
}

train_distilled() {
    local flags=("${student_flags[@]}")
    needs "${token_list}" "${token_stage}"
    needs "${stats}/train/speech_shape" 9
    log "Stage 10: Train the student with ${asr_config} ${asr_args} -> ${asr_exp}/train.log"
    if [ "${reads[text]}" = true ]; then
        set_text_flags "${fit}" "${train}"
        flags+=("${text_flags[@]}")
    else # those of the dev set only, to see the error rate of a label-free student
        flags+=(--valid_data_path_and_name_and_type "${data}/${fit}/${valid_set}/text,text,text")
    fi
    if [ "${reads[teacher]}" = true ]; then
        add_data teacher.scp,teacher,kaldi_ark
    fi
    if [ "${reads[online]}" = true ]; then
        add_online_teacher
    fi
    if [ "${reads[nbest]}" -gt 0 ]; then
        add_data "nbest${reads[nbest]}/nbest,nbest,text"
    fi
    if [ -n "${pretrained_model}" ]; then
        flags+=(--init_param "${pretrained_model}")
    fi
    train_espnet "${asr_exp}" "${asr_config}" "${reads[normalize]}" "${OMP_NUM_THREADS}" \
        "${stats}" "${fit}" "${train}" "${flags[@]}"
}

add_data() { # <file of a cached set>,<name>,<type>: to the array flags
    flags+=(--train_data_path_and_name_and_type "${cache}/${train}/$1"
        --valid_data_path_and_name_and_type "${cache}/${valid_set}/$1")
}

add_online_teacher() { # to the array flags
    local option taken=${teacher}
    if [ "${teacher_type}" = espnet ]; then
        taken=$(dirname "${teacher_model[0]}")
    fi
    flags+=(--model_conf "kd.teacher.teacher_type=${teacher_type}"
        --model_conf "kd.teacher.teacher=${taken}")
    for option in "${teacher_options[@]}"; do
        flags+=(--model_conf "kd.teacher.teacher_conf.${option}")
    done
}
