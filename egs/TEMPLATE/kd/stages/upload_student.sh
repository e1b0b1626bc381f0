# shellcheck shell=bash disable=SC2154
upload_student() {
    if [ -z "${hf_repo}" ]; then
        refuse "--hf_repo is missing, e.g. me/student"
    fi
    if ! [ -f "${packed}" ]; then
        refuse "there is no ${packed}: run stage 15 with --skip_packing false"
    fi
    log "Stage 16: Upload ${packed} to Hugging Face: ${hf_repo}"
    shown "${logs}/upload.log" "${module[@]}" espnet_ctckd.bin.upload_hf \
        --packed "${packed}" --repo "${hf_repo}"
}
