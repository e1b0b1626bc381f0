# shellcheck shell=bash disable=SC2154
export_student() {
    local weights=${inference_asr_model}
    if [ -z "${weights}" ] && [ "${reads[text]}" = true ]; then
        weights=valid.cer_ctc.ave.pth
    elif [ -z "${weights}" ]; then
        weights=valid.${reads[loss]}.ave.pth
    fi
    once "${asr_exp}/export/.done.stage11" "${weights}" -- export_weights "${weights}"
}

export_weights() { # <weights>
    log "Stage 11: Export ${asr_exp} -> ${asr_exp}/export"
    shown "${asr_exp}/export.log" "${module[@]}" espnet_ctckd.bin.export_student \
        --asr_train_config "${asr_exp}/config.yaml" --asr_model_file "${asr_exp}/$1" \
        --output_dir "${asr_exp}/export"
}
