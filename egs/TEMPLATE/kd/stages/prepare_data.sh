# shellcheck shell=bash disable=SC2154
prepare_data() {
    once data/.done.stage1 "${local_data_opts}" -- prepare_corpus
    find_unlabeled # it may have come just now
    if [ -n "${unlabeled_audio}" ]; then
        once data/unlabeled/.done.stage1 "${unlabeled_audio}" -- \
            "${python_cmd[@]}" utils/prepare_unlabeled.py --audio_dir "${unlabeled_audio}" \
            --output_dir data/unlabeled
    fi
    if ${needs_lm}; then
        check_lm
    fi
}

prepare_corpus() {
    log "Stage 1: Data preparation"
    local/data.sh "${data_flags[@]}"
}
