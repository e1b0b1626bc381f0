# shellcheck shell=bash disable=SC2154
dump_teacher() {
    local set dumped=("${train}" "${valid_set}") key
    # The dev set's evaluates the teacher, also where it runs in the training step; n-best
    # lists are made from the cache.
    if [ "${reads[online]}" = true ] && [ "${reads[nbest]}" -eq 0 ]; then
        dumped=("${valid_set}")
    fi
    key="${filter_flags[*]} ${speed_perturb_factors} $(cat "${teacher_exp}/.done.stage6" 2>/dev/null || true)"
    for set in "${dumped[@]}"; do
        once "${cache}/${set}/.done.stage7" "${key}" -- dump_set "${set}"
    done
}

dump_set() { # <set>
    local scp=${data}/$1/wav.scp to=${cache}/$1 jobs gpu=0 flags=("${dump_flags[@]}")
    log "Stage 7: Teacher inference: $1 -> ${to}"
    needs "${scp}" 4
    needs "${token_list}" "${token_stage}"
    jobs=$(count_jobs "${teacher_nj}" "${scp}")
    if ${gpu_teacher}; then
        gpu=1
    fi
    if [ "${reads[states]}" = true ]; then
        flags+=(--states)
    fi
    "${train_jobs[@]}" --gpu "${gpu}" JOB=1:"${jobs}" "${to}/logs/dump.JOB.log" \
        "${module[@]}" espnet_ctckd.bin.dump_teacher "${teacher_flags[@]}" --ngpu "${gpu}" \
        --wav_scp "${scp}" --output_dir "${to}" --token_list "${token_list}" \
        --max_bad_share "${max_bad_share}" --top_k "${teacher_top_k}" "${flags[@]}" \
        --job JOB --num_jobs "${jobs}"
    grep -h "the cache will take\|^all .* tokens are\|of the teacher's" "${to}/logs/dump.1.log"
}
