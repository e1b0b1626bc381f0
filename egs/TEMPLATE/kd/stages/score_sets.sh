# shellcheck shell=bash disable=SC2154
score_sets() {
    local set model dir marker key
    log "Stage 13: Score -> ${expdir}/RESULTS.md"
    for set in "${tests[@]}"; do
        for model in "${asr_exp}" "${teacher_exp}"; do
            dir=${model}/${inference_tag}/${set}
            if [ -f "${dir}/text" ]; then
                marker=${dir}/.done.stage13
                key="2 ${score_opts} $(cat "${data}/org/${set}/text" "${dir}/text" | cksum)"
                finished "${marker}" "${key}" ||
                    once "${marker}" "${key}" -- score_one "${set}" "${dir}"
            fi
        done
    done
    shown "${logs}/results.${asr_tag}.log" "${module[@]}" espnet_ctckd.bin.results --expdir "${expdir}" \
        --command "$(quoted "$0" "${run_args[@]}")"
}

score_one() { # <set> <folder of its texts>
    local bpe=()
    if [ -f "${token_dir}/bpe.model" ]; then
        bpe=(--bpemodel "${token_dir}/bpe.model")
    fi
    echo "$2:"
    shown "$2/score.log" "${module[@]}" espnet_ctckd.bin.score --ref "${data}/org/$1/text" \
        --hyp "$2/text" "${bpe[@]}" --utt2spk "${data}/org/$1/utt2spk" "${score_flags[@]}"
}
