# shellcheck shell=bash disable=SC2154
filter_data() {
    local set
    for set in "${sets[@]}"; do
        filter_set "${set}" "${set}"
    done
    if [ -n "${unlabeled_set}" ]; then
        filter_set "${train}" "${labeled}" "${unlabeled_set}"
    fi
}

filter_set() { # <set> <folders that it is made of> ...
    local key="${*:2} ${filter_flags[*]} ${speed_perturb_factors} ${local_data_opts}"
    once "${data}/$1/.done.stage4" "${key}" -- join_sets "$@"
}

join_sets() { # <set> <folders> ...
    local folder inputs=()
    log "Stage 4: Leave out unusable utterances: ${*:2} -> ${data}/$1"
    for folder in "${@:2}"; do
        inputs+=(--input_dir "${data}/org/${folder}")
    done
    shown "${logs}/filter_data.$1.log" "${module[@]}" espnet_ctckd.bin.filter_data \
        "${inputs[@]}" --output_dir "${data}/$1" "${filter_flags[@]}"
}
