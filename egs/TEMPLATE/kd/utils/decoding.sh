# Decoding and its search, for the stages of kd.sh.
# shellcheck shell=bash disable=SC2154  # the options and names of kd.sh

teacher_is_asr() { # a model that decodes as the students do
    [ "${teacher_type}" = espnet ] && ! grep -qs "^promptencoder:" "${teacher_model[0]}"
}

decode_gpus() {
    if ${gpu_inference}; then echo 1; else echo 0; fi
}

decode_one() { # <tool> <set> <folder> <configuration> <weights> [<configuration of the search>]
    local scp=${data}/org/$2/wav.scp model=(--asr_train_config "$4" --asr_model_file "$5") search=()
    log "Stage 12: Decode $2 with ${3%/*/*} -> $3"
    if [ $# -gt 5 ]; then
        search=(--config "$6")
    fi
    case "$1" in
        ctckd) decode_whole decode "$3" "${search[@]}" ;;
        stream) decode_whole decode_stream "$3" ;;
        espnet) decode_espnet "$3" "${search[@]}" ;;
    esac
}

decode_whole() { # <command> <folder> <flags> ...; model and scp are of decode_one
    local gpu
    gpu=$(decode_gpus)
    "${decode_jobs[@]}" --gpu "${gpu}" "$2/decode.log" "${module[@]}" "espnet_ctckd.bin.$1" \
        "${@:3}" --ngpu "${gpu}" "${model[@]}" --wav_scp "${scp}" --output_dir "$2" \
        --max_bad_share "${max_bad_share}" "${inference_flags[@]}"
}

decode_espnet() { # <folder> <flags> ...; model and scp are of decode_one
    local gpu jobs
    gpu=$(decode_gpus)
    jobs=$(count_jobs "${inference_nj}" "${scp}")
    divide "${scp}" "${jobs}" "$1/logdir/keys"
    "${decode_jobs[@]}" --gpu "${gpu}" JOB=1:"${jobs}" "$1/logdir/decode.JOB.log" \
        "${module[@]}" espnet2.bin.asr_inference --ngpu "${gpu}" --ctc_weight 1.0 "${@:2}" \
        --data_path_and_name_and_type "${scp},speech,sound" \
        --key_file "$1/logdir/keys.JOB.scp" --output_dir "$1/logdir/output.JOB" \
        "${model[@]}" "${inference_flags[@]}"
    cat "$1"/logdir/output.*/1best_recog/text | sort >"$1/text"
}

# Choose the scales of a search with --lm on the dev set.
tune() { # <folder> <configuration> <weights>
    local words=()
    if ! [ -f "${lm}" ]; then
        refuse "there is no language model ${lm}"
    fi
    if [ -n "${lexicon}" ]; then
        words=("${lexicon}")
    fi
    once "$1/.done.stage12" \
        "${search_grid[*]} ${inference_args} ${score_opts} $(cat "$3" "${lm}" "${words[@]}" | cksum)" -- \
        tune_search "$@"
}

tune_search() { # <folder> <configuration> <weights>
    local gpu search=()
    gpu=$(decode_gpus)
    log "Stage 12: Tune the search with ${lm} on ${valid_set} -> $1/tune.log"
    if [ -n "${inference_config}" ]; then
        search=(--config "${inference_config}")
    fi
    shown "$1/lexicon.log" "${module[@]}" espnet_ctckd.bin.make_lexicon \
        --words "${lexicon:-${lm}}" --asr_train_config "$2" --output "$1/lexicon.txt"
    "${decode_jobs[@]}" --gpu "${gpu}" "$1/tune.log" "${module[@]}" espnet_ctckd.bin.tune_decoding \
        --ngpu "${gpu}" --method lexicon --blank_collapse 0.999 "${search[@]}" \
        --asr_train_config "$2" --asr_model_file "$3" \
        --wav_scp "${data}/${valid_set}/wav.scp" --text "${data}/${valid_set}/text" \
        --lexicon "$1/lexicon.txt" --lm "${lm}" "${score_flags[@]}" "${search_grid[@]}" \
        --output "$1/decode.yaml"
    grep -e "<- best" -e "at the edge" "$1/tune.log"
}

# A language model that cannot be read is found before a training, once it is there.
check_lm() {
    local checked words=()
    if [ -n "${lexicon}" ]; then
        words=("${lexicon}")
    fi
    checked=${expdir}/.checked/lm_$({ stat -L -c '%n %s %Y' "${lm}" "${words[@]}" 2>&1 || true; } | cksum | cut -d' ' -f1)
    if [ -f "${checked}" ]; then
        return
    fi
    if ! shown "${logs}/check_lm.log" "${module[@]}" espnet_ctckd.bin.check_lm --lm "${lm}" \
        ${lexicon:+--words "${lexicon}"}; then
        refuse "--lm ${lm} cannot be used"
    fi
    mkdir -p "${expdir}/.checked"
    touch "${checked}"
}
