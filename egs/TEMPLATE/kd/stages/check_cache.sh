# shellcheck shell=bash disable=SC2154
check_cache() {
    local set nbest=${reads[nbest]}
    if [ "${reads[teacher]}" = true ]; then
        fit_student
        for set in "${train}" "${valid_set}"; do
            check_set "${set}"
        done
    fi
    if [ "${nbest}" -gt 0 ]; then
        for set in "${train}" "${valid_set}"; do
            needs "${cache}/${set}/.done.stage7" 7
            once "${cache}/${set}/nbest${nbest}/.done.stage8" "$(cat "${cache}/${set}/.done.stage7")" -- \
                dump_nbest "${set}"
        done
    fi
    needs "${cache}/${valid_set}/meta.json" 7
    once "${teacher_exp}/.done.stage8" \
        "${score_opts} ${valid_set} ${teacher_max_wer} $(cksum <"${cache}/${valid_set}/meta.json")" -- \
        evaluate_teacher
}

# Not again for a student that reads the same, while no file has changed.
check_set() { # <set>
    local from=${data}/${fit}/$1 files marker audio key
    files=("${from}/wav.scp" "${cache}/$1/meta.json" "${token_list}")
    if [ "${reads[text]}" = true ]; then
        files+=("${from}/text")
    fi
    needs "${cache}/$1/meta.json" 7
    audio=$(cut -d' ' -f2- "${from}/wav.scp" | tr '\n' '\0' | xargs -0 stat -L -c '%n %s %Y' | cksum)
    marker=${cache}/$1/checked/$(cksum <<<"${described}" | cut -d' ' -f1)/.done.stage8
    key="${described} ${audio} $(cat "${files[@]}" | cksum)"
    finished "${marker}" "${key}" || once "${marker}" "${key}" -- check_one "$1"
}

check_one() { # <set>
    local text=()
    log "Stage 8: Check the cache ${cache}/$1"
    if [ "${reads[text]}" = true ]; then
        text=(--text "${data}/${fit}/$1/text")
    fi
    set_token_flags
    shown "${logs}/check_cache.${asr_tag}.$1.log" "${module[@]}" espnet_ctckd.bin.check_cache \
        --cache "${cache}/$1" --wav_scp "${data}/${fit}/$1/wav.scp" "${text[@]}" \
        --asr_config "${asr_config}" "${token_flags[@]}" "${student_flags[@]}"
}

dump_nbest() { # <set>
    local to=${cache}/$1/nbest${reads[nbest]}
    log "Stage 8: N-best lists -> ${to}"
    shown "${to}/dump.log" "${module[@]}" espnet_ctckd.bin.dump_nbest --cache "${cache}/$1" \
        --output_dir "${to}" --nbest "${reads[nbest]}"
}

evaluate_teacher() {
    log "Stage 8: Evaluate the teacher on ${valid_set}"
    set_token_flags
    shown "${logs}/evaluate_teacher.log" "${module[@]}" espnet_ctckd.bin.prove_teacher \
        --cache "${cache}/${valid_set}" --text "${data}/${valid_set}/text" \
        --output_dir "${teacher_exp}/${inference_tag}/${valid_set}" \
        --max_wer "${teacher_max_wer}" "${token_flags[@]}" "${score_flags[@]}"
}
