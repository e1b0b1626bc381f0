#!/usr/bin/env bash
# Which way of distilling is worth it? Selectors, lambdas, reductions, seeds, methods
# without a teacher, and the transcripts of half of the speakers withheld.
#   ./study.sh --an4 <folder> --ngpu 0 --nj 2
# Takes the options of kd.sh, and shares data, teacher and students with run.sh. Stopped
# and started again, it goes on.
set -euo pipefail

# shellcheck source=../../an4/kd/local/distil.sh
. local/distil.sh || { echo "$0: run it in its own folder: cd egs/an4/kd" >&2; exit 1; }
# shellcheck disable=SC2034  # for distil
decode_at_once=true
symmetric=symmetric4 # the best of n = 1, 2, 4 on the dev set at lambda 1, seed 0

inter="--encoder_conf interctc_layer_idx=[1] --encoder_conf interctc_use_conditioning=false"
for weight in 1 0.9 0.25; do
    for selector in all blank_elimination symmetric symmetric2 symmetric4 trim threshold random; do
        distilled "${selector}" "${weight}"
    done
done
for weight in 1 0.9; do
    for selector in all blank_elimination symmetric; do
        distilled "${selector}" "${weight}" 0 selected_mean
    done
done
for seed in 0 1 2; do
    with_seed "${seed}" no_distillation "${plain}" ""
    for selector in all blank_elimination "${symmetric}"; do
        distilled "${selector}" 0.5 "${seed}"
        [ "${seed}" = 0 ] || distilled "${selector}" 1 "${seed}"
    done
    with_seed "${seed}" inter_kd "${plain}" \
        "--model ctckd --model_conf kd=${conf}/kd/inter_kd.yaml ${inter}"
    with_seed "${seed}" self_distillation "${plain}" \
        "--model ctckd --model_conf kd=${conf}/kd/self_distillation.yaml ${inter}"
    # Two views at a step: half the batch and half the epochs, so that it costs the same.
    with_seed "${seed}" cr_ctc "${plain}" "--model ctckd --model_conf kd=${conf}/kd/cr_ctc.yaml \
--batch_bins 250000 --max_epoch 9 --specaug_conf num_time_mask=4"
done
distilled symmetric 0.5

# Sequences and hidden states.
for method in nbest nbest_label_free feature_warmup; do
    student "${method}" "${kd}" "--model_conf kd=${conf}/kd/${method}.yaml"
done

# Half of the speakers' transcripts withheld, from the teacher, too. As many updates as
# the others: twice the epochs of half of the data.
half="--train_set train_half --teacher_tag half --teacher_args --max_epoch=48"
all="--model_conf kd.selector=all --model_conf kd.selector_conf={}"
free="${all} --model_conf kd.weight=1"
student half_no_distillation "${plain}" "--max_epoch 36" "${half}"
student half_all_lambda0.5 "${kd}" "--max_epoch 36 ${all}" "${half}"
student half_label_free "${kd}" "${free}" "${half} --unlabeled_set train_withheld"
distil_an4 "$@"

# shellcheck disable=SC2034  # for distil
students=()
begun="--pretrained_model exp/asr_half_all_lambda0.5/export/model.pth"
student half_then_label_free "${kd}" "${free}" "${half} --unlabeled_set train_withheld ${begun}"
# The control: as many updates more, on the labelled half again.
student half_all_lambda0.5_longer "${kd}" "--max_epoch 36 ${all}" "${half} ${begun}"
distil_an4 "$@"

. ./path.sh
python3 local/study_table.py --teacher teacher_train_teacher_ctc_small_char \
    --wav_scp dump/raw/org/test/wav.scp
