#!/usr/bin/env bash
# Streaming students of a teacher that hears all of an utterance: without distillation,
# with it frame by frame, and with a buffer by which they may lag behind the teacher.
#   ./streaming.sh --an4 <folder> --ngpu 0 --nj 2
# Takes the options of kd.sh, and shares data and teacher with run.sh.
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
for delay in 0 1 2 4; do
    student "streaming_delay${delay}" ${conf}/train_student_ctckd_streaming_small.yaml \
        "--model_conf kd.delay=${delay}"
done
student streaming_no_distillation ${conf}/train_student_ctckd_streaming_small.yaml \
    "--model_conf kd.weight=0"

distil --local_data_opts "${data}" --train_set train --valid_set valid --test_sets test \
    --token_type char --teacher_num_threads 2 --teacher_config ${conf}/train_teacher_ctc_small.yaml \
    --lang en "${options[@]}"
