# shellcheck shell=bash disable=SC2154
perturb_speed() {
    if ${needs_train} && [ -n "${speed_perturb_factors}" ]; then
        once "data/${labeled}/.done.stage2" "${speed_perturb_factors} ${local_data_opts}" -- \
            perturb_train_set
    fi
}

perturb_train_set() {
    log "Stage 2: Speed perturbation: ${speed_perturb_factors}"
    shown "${logs}/perturb_speed.log" "${module[@]}" espnet_ctckd.bin.perturb_speed \
        --input_dir "data/${train_set}" --output_dir "data/${labeled}" \
        --factors "${speed_perturb_factors}"
}
