#!/usr/bin/env bash
# Is it worth it to skip blank frames in the upper layers? A student of 6 layers, the same
# with skipping after 2 (and with a blank output of its own there), and one of 4 layers;
# then time and WER of all by the threshold.
#   ./skipping.sh --an4 <folder> --ngpu 0 --nj 2
# Takes the options of kd.sh, and shares data and teacher with run.sh.
set -euo pipefail

# shellcheck source=../../an4/kd/local/distil.sh
. local/distil.sh || { echo "$0: run it in its own folder: cd egs/an4/kd" >&2; exit 1; }
# shellcheck disable=SC2034  # for distil
decode_at_once=true

whole="--model_conf kd.selector=all --model_conf kd.selector_conf={}"
skip="--encoder ctckd_skip_conformer --encoder_conf num_blocks=6 --encoder_conf skip_after=2 \
--model_conf kd=${conf}/kd/layer_skipping.yaml"
student layers6 "${kd}" "${whole} --encoder_conf num_blocks=6"
student layers4 "${kd}" "${whole} --encoder_conf num_blocks=4"
student skipping "${kd}" "${skip}"
student skipping_factorized "${kd}" "${skip} --encoder_conf skip_factorized=true"
distil_an4 "$@"

. ./path.sh
for system in skipping skipping_factorized; do
    echo "${system}:"
    python3 -m espnet_ctckd.bin.bench_skip --asr_train_config exp/asr_${system}/export/config.yaml \
        --asr_model_file exp/asr_${system}/export/model.pth --wav_scp dump/raw/org/test/wav.scp \
        --text dump/raw/org/test/text --other exp/asr_layers6/export --other exp/asr_layers4/export \
        --neighbours 0 1
done
