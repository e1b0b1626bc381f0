#!/usr/bin/env bash
# CMU AN4, real people spelling and counting: a teacher, a student without distillation,
# and students that learn from all frames, without blank frames, or from the spikes and
# their neighbours; with transcripts (lambda 0.5) and without (1).
#   ./run.sh --an4 <folder> --ngpu 0 --nj 2
# Takes the options of kd.sh; without --an4 the corpus is as db.sh says.
set -euo pipefail

# shellcheck source=../../an4/kd/local/distil.sh
. local/distil.sh || { echo "$0: run it in its own folder: cd egs/an4/kd" >&2; exit 1; }

for weight in 0.5 1; do
    for selector in symmetric all blank_elimination; do
        distilled "${selector}" "${weight}"
    done
done
student no_distillation "${plain}"

distil_an4 "$@"
