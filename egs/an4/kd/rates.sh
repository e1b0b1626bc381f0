#!/usr/bin/env bash
# Teachers of another frame rate: a student with a frame every 80 ms of the teacher with
# one every 40 ms, and one of 40 ms whose teacher is that student. Without transcripts.
#   ./rates.sh --an4 <folder> --ngpu 0 --nj 2
# Takes the options of kd.sh, and shares data and teacher with run.sh.
set -euo pipefail

# shellcheck source=../../an4/kd/local/distil.sh
. local/distil.sh || { echo "$0: run it in its own folder: cd egs/an4/kd" >&2; exit 1; }
# shellcheck disable=SC2034  # for distil
decode_at_once=true

args="--model_conf kd.weight=1 --model_conf kd.selector=all --model_conf kd.selector_conf={}"
student rate80_of_40 "${kd}" "${args} --model_conf kd.frame_ratio=2 --encoder_conf input_layer=conv2d8"
distil_an4 "$@"

# shellcheck disable=SC2034  # for distil
students=()
student rate40_of_80 "${kd}" "${args} --model_conf kd.frame_ratio=1/2"
distil_an4 "$@" --teacher exp/asr_rate80_of_40/export --teacher_tag rate80
