#!/usr/bin/env bash
# Is it worth it to skip blank frames in the upper layers? A student of 12 layers; the same
# with skipping after 3: alone, with a neighbour on either side, and with a blank output
# of its own; and one of 8 layers. Then time and WER of all by the threshold.
#   ./skipping.sh --an4 <folder> --ngpu 0 --nj 2
# Takes the options of kd.sh, and shares data and teacher with run.sh. Of larger units,
# which leave more blank frames:
#   ./skipping.sh --an4 <folder> --ngpu 0 --nj 2 --token_type bpe --nbpe 100 --expdir exp_bpe
set -euo pipefail

# shellcheck source=../../an4/kd/local/distil.sh
. local/distil.sh || { echo "$0: run it in its own folder: cd egs/an4/kd" >&2; exit 1; }
# shellcheck disable=SC2034  # for distil
decode_at_once=true

whole="--model_conf kd.selector=all --model_conf kd.selector_conf={}"
skip="--encoder ctckd_skip_conformer --encoder_conf num_blocks=12 --encoder_conf skip_after=3 \
--encoder_conf skip_threshold=0.9 --model_conf kd=${conf}/kd/layer_skipping.yaml"
student skipping0_of_12 "${kd}" "${skip} --encoder_conf skip_neighbours=0"
student skipping1_of_12 "${kd}" "${skip}"
student layers12 "${kd}" "${whole} --encoder_conf num_blocks=12"
student layers8 "${kd}" "${whole} --encoder_conf num_blocks=8"
student skipping1_of_12_factorized "${kd}" "${skip} --encoder_conf skip_factorized=true"
distil_an4 "$@"

exp=exp
while [ $# -gt 1 ]; do
    [ "$1" != --expdir ] || exp=$2
    shift
done
. ./path.sh
for system in skipping0_of_12 skipping1_of_12 skipping1_of_12_factorized; do
    echo "${system}:"
    python3 -m espnet_ctckd.bin.bench_skip --asr_train_config "${exp}"/asr_${system}/export/config.yaml \
        --asr_model_file "${exp}"/asr_${system}/export/model.pth --wav_scp dump/raw/org/test/wav.scp \
        --text dump/raw/org/test/text --other "${exp}"/asr_layers12/export --other "${exp}"/asr_layers8/export \
        --neighbours 0 1 --thresholds 1.1 0.99 0.9 0.7 0.5
done
