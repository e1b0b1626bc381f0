#!/usr/bin/env bash
# Streaming students of a teacher that hears all of an utterance, with blocks of two
# sizes: without distillation, with it frame by frame, and with a buffer by which they may
# lag behind the teacher. Decoded as whole utterances, and as audio that comes in.
#   ./streaming.sh --an4 <folder> --ngpu 0 --nj 2
# Takes the options of kd.sh, and shares data and teacher with run.sh.
set -euo pipefail

# shellcheck source=../../an4/kd/local/distil.sh
. local/distil.sh || { echo "$0: run it in its own folder: cd egs/an4/kd" >&2; exit 1; }
# shellcheck disable=SC2034  # for distil
decode_at_once=true

config=${conf}/train_student_ctckd_streaming_small.yaml
for blocks in 8+4 4+0; do # frames of 40 ms: how many come in at a time + lie ahead
    args="--encoder_conf hop_size=${blocks%+*} --encoder_conf look_ahead=${blocks#*+}"
    for delay in 0 1 2 4; do
        student "streaming${blocks}_delay${delay}" "${config}" \
            "${args} --model_conf kd.delay=${delay}"
    done
    student "streaming${blocks}_no_distillation" "${config}" "${args} --model_conf kd.weight=0"
done

distil_an4 "$@"
distil_an4 "$@" --inference_tool stream
