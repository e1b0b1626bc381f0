#!/usr/bin/env bash
# Is it worth it to skip blank frames in the upper layers? A student of 12 layers; the same
# with skipping after 3: alone, with a neighbour on either side, and with a blank output
# of its own; and one of 8 layers. Then skipping learnt by a student that is trained already,
# and time and WER of all by the threshold.
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
for ((i = 1; i < $#; i++)); do
    [ "${!i}" != --expdir ] || { j=$((i + 1)) && exp=${!j}; }
done
# As many epochs again: skipping for a student that has learnt without; and, to compare,
# those of 12 and 8 layers.
# shellcheck disable=SC2034  # for distil
students=()
later="--encoder ctckd_skip_conformer --encoder_conf num_blocks=12 --encoder_conf skip_after=3 \
--encoder_conf skip_threshold=0.9 --model_conf kd=${conf}/kd/layer_skipping_later.yaml"
begun="--pretrained_model ${exp}/asr_layers12/export/model.pth"
student layers12_then_skipping "${kd}" "${later}" "${begun}"
student layers12_longer "${kd}" "${whole} --encoder_conf num_blocks=12" "${begun}"
student layers8_longer "${kd}" "${whole} --encoder_conf num_blocks=8" \
    "--pretrained_model ${exp}/asr_layers8/export/model.pth"
distil_an4 "$@"

. ./path.sh
bench() { # <student> <suffix of those that it is compared with>
    echo "$1:"
    python3 -m espnet_ctckd.bin.bench --what skip --asr_train_config "${exp}/asr_$1/export/config.yaml" \
        --asr_model_file "${exp}/asr_$1/export/model.pth" --wav_scp dump/raw/org/test/wav.scp \
        --text dump/raw/org/test/text --other "${exp}/asr_layers12$2/export" \
        --other "${exp}/asr_layers8$2/export" --neighbours 0 1 --thresholds 1.1 0.99 0.9 0.7 0.5
}
for system in skipping0_of_12 skipping1_of_12 skipping1_of_12_factorized; do
    bench "${system}" ""
done
bench layers12_then_skipping _longer
