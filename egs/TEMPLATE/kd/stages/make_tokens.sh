# shellcheck shell=bash disable=SC2154
make_tokens() {
    if [ -z "${teacher}" ]; then # otherwise its tokens are the students'
        once "${token_dir}/.done.stage5" "${token_type} ${nbpe} ${bpemode}  ${train_set}" -- \
            train_tokens
    fi
}

train_tokens() {
    local text=${data}/${labeled}/text
    log "Stage 5: Token list -> ${token_list}"
    needs "${text}" 4
    mkdir -p "${token_dir}"
    if [ "${token_type}" = bpe ]; then
        shown "${token_dir}/train.log" "${module[@]}" espnet_ctckd.bin.train_bpe --text "${text}" \
            --output_dir "${token_dir}" --vocab_size "${nbpe}" --model_type "${bpemode}"
    else
        shown "${token_dir}/train.log" "${module[@]}" espnet2.bin.tokenize_text \
            --token_type "${token_type}" --g2p none --input "${text}" \
            --output "${token_list}.part" --field 2- --cleaner none --write_vocabulary true \
            --add_symbol "<blank>:0" --add_symbol "<unk>:1" --add_symbol "<sos/eos>:-1"
        mv "${token_list}.part" "${token_list}"
    fi
    log "$(wc -l <"${token_list}") tokens"
}
