# shellcheck shell=bash disable=SC2154
format_audio() {
    local set key="${fs} ${audio_format} ${speed_perturb_factors} ${local_data_opts} ${max_bad_share}"
    for set in "${sets[@]}" "${tests[@]}" ${unlabeled_set:+"${unlabeled_set}"}; do
        once "${data}/org/${set}/.done.stage3" "${key}" -- format_set "${set}"
    done
}

format_set() { # <set>
    local to=${data}/org/$1 jobs command
    log "Stage 3: Format audio: data/$1 -> ${to}"
    needs "data/$1/wav.scp" 1
    jobs=$(count_jobs "${nj}" "data/$1/wav.scp")
    command=("${module[@]}" espnet_ctckd.bin.format_audio --input_dir "data/$1"
        --output_dir "${to}" --fs "${fs}" --audio_format "${audio_format}"
        --num_jobs "${jobs}" --max_bad_share "${max_bad_share}")
    "${train_jobs[@]}" JOB=1:"${jobs}" "${to}/logs/format.JOB.log" "${command[@]}" --job JOB
    shown "${to}/logs/format.log" "${command[@]}"
}
