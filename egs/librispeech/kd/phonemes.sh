#!/usr/bin/env bash
# Students of a phoneme recogniser that pip installs (hama, onnxruntime), without any
# transcript, by the amount of audio: half of the training audio that is there, all of
# it, and that with a folder of untranscribed audio. As many updates for all.
#   pip install hama onnxruntime
#   ./phonemes.sh --librispeech <folder> --unlabeled_set <folder of audio> --ngpu 0 --nj 2
# Takes the options of kd.sh. Phonemes of the references are of hama's own dictionary.
set -euo pipefail

# shellcheck source=../../TEMPLATE/kd/utils/students.sh
. utils/students.sh || { echo "$0: run it in its own folder: cd egs/librispeech/kd" >&2; exit 1; }
# shellcheck disable=SC2034  # for distil
decode_at_once=true

librispeech=
unlabeled=
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --librispeech) librispeech="--librispeech ${2:?--librispeech needs a folder}" ;;
        --unlabeled[-_]set) unlabeled=${2:?--unlabeled_set needs a folder} ;;
        *)
            options+=("$1")
            shift
            continue
            ;;
    esac
    shift 2
done
[ -n "${unlabeled}" ] || { echo "$0: --unlabeled_set is missing: a folder of audio files" >&2; exit 2; }

conf=../../../conf/train_student_ctckd_small.yaml
args="--model_conf kd.weight=1 --model_conf kd.selector=all --model_conf kd.selector_conf={} \
--model_conf kd.frame_ratio=2 --batch_bins 250000"
student phonemes_all "${conf}" "${args} --max_epoch 18" "--unlabeled_set ${unlabeled}"
student phonemes_one "${conf}" "${args} --max_epoch 36"
student phonemes_half "${conf}" "${args} --max_epoch 72" "--train_set train_mini_half"

distil --local_data_opts "${librispeech} --mini true --phonemes true" --lang en \
    --train_set train_mini --valid_set dev_mini --test_sets test_mini --max_wav_duration 20 \
    --teacher_type python --teacher local.hama_teacher:make --teacher_conf boundaries=false \
    --teacher_tag hama "${options[@]}"

. ./path.sh
for hyp in exp/asr_phonemes_*/decode_ctckd/test_mini/text; do
    [ -f "${hyp}" ] || continue # stopped before its decoding
    echo "${hyp} against what the teacher says:"
    python3 -m espnet_ctckd.bin.score --ref exp/teacher_hama/decode_ctckd/test_mini/text \
        --hyp "${hyp}" --output_dir "$(dirname "${hyp}")/against_teacher"
done
