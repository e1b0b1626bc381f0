#!/usr/bin/env bash
# Streaming students of a teacher that hears all of an utterance: without distillation,
# with it frame by frame, and with a buffer by which they may lag behind the teacher.
#   ./streaming.sh --an4 <folder> --ngpu 0 --nj 2
# Takes the options of kd.sh, and shares data and teacher with run.sh.
set -euo pipefail

# shellcheck source=local/distil.sh
. local/distil.sh || { echo "$0: run it in its own folder: cd egs/an4/kd" >&2; exit 1; }

for delay in 0 1 2 4; do
    student "streaming_delay${delay}" ${conf}/train_student_ctckd_streaming_small.yaml \
        "--model_conf kd.delay=${delay}"
done
student streaming_no_distillation ${conf}/train_student_ctckd_streaming_small.yaml \
    "--model_conf kd.weight=0"

distil_an4 "$@"
