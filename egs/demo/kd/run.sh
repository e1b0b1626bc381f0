#!/usr/bin/env bash
# Made-up commands in made-up voices: everything from data to a table on two CPU cores,
# without a corpus. A teacher; the student without distillation; the student with it;
# and the student that never saw a transcript.
#   ./run.sh --ngpu 0 --nj 2
# Takes the options of kd.sh.
set -euo pipefail

# shellcheck source=../../TEMPLATE/kd/utils/students.sh
. utils/students.sh || { echo "$0: run it in its own folder: cd egs/demo/kd" >&2; exit 1; }

conf=../../../conf
epochs="--max_epoch 12"
student distilled ${conf}/train_student_ctckd_small.yaml "${epochs}"
student no_distillation ${conf}/train_student_ctc_small.yaml "${epochs}"
student label_free ${conf}/train_student_ctckd_small.yaml "${epochs} --model_conf kd.weight=1"

distil --train_set train --valid_set valid --test_sets test --token_type char --lang en \
    --teacher_config ${conf}/train_teacher_ctc_small.yaml --teacher_args "--max_epoch 14" \
    --teacher_num_threads 2 --local_data_opts "--num_train 800" "$@"
