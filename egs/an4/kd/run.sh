#!/usr/bin/env bash
# CMU AN4, real people spelling and counting: a teacher, a student without distillation,
# and students that learn from all frames, without blank frames, or from the spikes and
# their neighbours; with transcripts (lambda 0.5) and without (1).
#   ./run.sh --an4 <folder> --ngpu 0 --nj 2
# Takes the options of kd.sh; without --an4 the corpus is as db.sh says.
set -euo pipefail

# shellcheck source=../../TEMPLATE/kd/utils/students.sh
. utils/students.sh || { echo "$0: run it in its own folder: cd egs/an4/kd" >&2; exit 1; }

data=
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --an4) data="--an4 ${2:?give --an4 a folder}" && shift ;;
        *) options+=("$1") ;;
    esac
    shift
done

conf=../../../conf
kd=${conf}/train_student_ctckd_small.yaml
for weight in 0.5 1; do
    for selector in symmetric all blank_elimination; do
        conf_of=
        [ "${selector}" = symmetric ] || conf_of="--model_conf kd.selector_conf={}"
        student "${selector}_lambda${weight}" "${kd}" \
            "--model_conf kd.weight=${weight} --model_conf kd.selector=${selector} ${conf_of}"
    done
done
student no_distillation ${conf}/train_student_ctc_small.yaml

distil --local_data_opts "${data}" --train_set train --valid_set valid --test_sets test \
    --token_type char --teacher_num_threads 2 --teacher_config ${conf}/train_teacher_ctc_small.yaml \
    --lang en "${options[@]}"
