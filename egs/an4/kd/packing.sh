#!/usr/bin/env bash
# What is lost in packing the cache? Students without transcripts, from a dense cache, from
# one packed as by default, three seeds, and from one packed more coarsely, one seed.
#   ./packing.sh --an4 <folder> --ngpu 0 --nj 2
# Takes the options of kd.sh, and shares data, teacher and students with study.sh.
set -euo pipefail

# shellcheck source=../../an4/kd/local/distil.sh
. local/distil.sh || { echo "$0: run it in its own folder: cd egs/an4/kd" >&2; exit 1; }
# shellcheck disable=SC2034  # for distil
decode_at_once=true

args="--model_conf kd.weight=1 --model_conf kd.selector=all --model_conf kd.selector_conf={}"
for seed in 0 1 2; do
    distilled all 1 "${seed}"
    with_seed "${seed}" all_lambda1_top16 "${kd}" "${args}" "--teacher_top_k 16"
done
student all_lambda1_coarse "${kd}" "${args}" "--teacher_top_k 4 --teacher_dump_args --step=0.5"
distil_an4 "$@"
