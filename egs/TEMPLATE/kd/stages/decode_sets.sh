# shellcheck shell=bash disable=SC2154
decode_sets() {
    local set student_model=("${asr_exp}/export/config.yaml" "${asr_exp}/export/model.pth")
    if [ -n "${download_model}" ]; then
        shown "${logs}/fetch_model.log" "${module[@]}" espnet_ctckd.bin.fetch_model \
            --model "${download_model}" --output_dir "${asr_exp}/export"
    fi
    if ! [ -f "${student_model[1]}" ] && ! [ -f "${teacher_model[1]}" ] &&
        ! [ -f "${teacher_exp}/.done.stage6" ]; then
        refuse "there is no model to decode with: neither ${asr_exp}/export (stages 10 and 11) nor ${teacher_exp} (stage 6)"
    fi
    for set in "${tests[@]}"; do
        needs "${data}/org/${set}/wav.scp" 3
        if [ -f "${student_model[1]}" ]; then
            decode_with "${inference_tool}" "${set}" "${asr_exp}" "${student_model[@]}"
        fi
        if ! teacher_is_asr; then
            if [ -f "${teacher_exp}/.done.stage6" ]; then
                once "${teacher_exp}/${inference_tag}/${set}/.done.stage12" \
                    "$(cat "${teacher_exp}/.done.stage6") ${local_data_opts}" -- \
                    decode_from_dump "${set}" "${teacher_exp}/${inference_tag}/${set}"
            fi
        elif [ -f "${teacher_model[1]}" ]; then
            # A teacher takes an utterance as a whole.
            decode_with "${inference_tool/stream/ctckd}" "${set}" "${teacher_exp}" "${teacher_model[@]}"
        fi
    done
}

decode_with() { # <tool> <set> <experiment> <configuration> <weights>
    local dir=$3/${inference_tag}/$2 search=()
    if [ -n "${lm}" ]; then
        tune "$3/${inference_tag}" "$4" "$5"
        search=("$3/${inference_tag}/decode.yaml")
    elif [ -n "${inference_config}" ]; then
        search=("${inference_config}")
    fi
    once "${dir}/.done.stage12" \
        "${inference_args} ${local_data_opts} $(cat "$5" "${search[@]}" | cksum)" -- \
        decode_one "$1" "$2" "${dir}" "$4" "$5" "${search[@]}"
}

decode_from_dump() { # <set> <folder>
    log "Stage 12: Decode $1 with the teacher ${teacher} -> $2"
    "${decode_jobs[@]}" "$2/decode.log" "${module[@]}" espnet_ctckd.bin.dump_teacher \
        "${teacher_flags[@]}" --wav_scp "${data}/org/$1/wav.scp" --output_dir "${cache}/$1" \
        --max_bad_share 100 --top_k "${teacher_top_k}" "${dump_flags[@]}"
    set_token_flags
    shown "$2/evaluate.log" "${module[@]}" espnet_ctckd.bin.prove_teacher --cache "${cache}/$1" \
        --text "${data}/org/$1/text" --output_dir "$2" "${token_flags[@]}" "${score_flags[@]}"
}
