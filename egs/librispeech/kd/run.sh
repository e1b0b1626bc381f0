#!/usr/bin/env bash
# LibriSpeech: students of a large CTC model, with transcripts and without.
#   ./run.sh --stage 0                                    all of it, on GPUs
#   ./run.sh --train_set train_960 --student paper        more data, the paper's student
#   ./run.sh --mini true --librispeech <folder> --ngpu 0 --nj 2
#                                     the same path on two CPU cores, with what is there
# Takes the options of kd.sh, and
#   --librispeech <folder>    LibriSpeech/ or what holds it; else db.sh says, else it is
#                             downloaded
#   --train_set <set>         train_clean_100 (default), train_clean_460, train_960
#   --student small|paper     4 M or 70 M parameters
#   --teacher <folder or tag> an ESPnet model with a CTC branch, a frame every 40 ms
#                             (default: a hybrid Conformer of the model zoo; with --mini
#                             the recipe trains one); or hubert: HuBERT large, which the
#                             recipe fine-tunes with CTC, as the paper's authors did
#   --unlabeled_set <folder>  of audio files without transcripts, for the label-free one
set -euo pipefail

# shellcheck source=../../TEMPLATE/kd/utils/students.sh
. utils/students.sh || { echo "$0: run it in its own folder: cd egs/librispeech/kd" >&2; exit 1; }

librispeech=
mini=false
size=small
train_set=train_clean_100
unlabeled=
teacher=
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --librispeech) librispeech="--librispeech ${2:?--librispeech needs a folder}" ;;
        --mini) mini=${2:?--mini is true or false} ;;
        --student) size=${2:?--student is small or paper} ;;
        --train[-_]set) train_set=${2:?--train_set needs a name} ;;
        --unlabeled[-_]set) unlabeled="--unlabeled_set ${2:?--unlabeled_set needs a folder}" ;;
        --teacher) teacher=${2:?--teacher needs a folder or tag} ;;
        *)
            options+=("$1")
            shift
            continue
            ;;
    esac
    shift 2
done

if [ "${mini}" = true ]; then
    conf=../../../conf
    distilled=${conf}/train_student_ctckd_small.yaml
    args="--max_epoch 2"
    settings=(--train_set train_mini --valid_set dev_mini --test_sets test_mini
        --max_wav_duration 20 --teacher_num_threads 2 --teacher_max_wer 1000)
    taken=(--token_type char --teacher_config "${conf}/train_teacher_ctc_small.yaml"
        --teacher_args "--max_epoch 4")
    data="--mini true"
else
    distilled=conf/train_student_ctckd_${size}.yaml
    args=
    data="--train_set ${train_set}"
    settings=(--train_set "${train_set}" --valid_set dev
        --test_sets "dev_clean dev_other test_clean test_other"
        --speed_perturb_factors "0.9 1.0 1.1" --max_wav_duration 30
        --teacher_top_k 16 --gpu_teacher true)
    taken=(--teacher pyf98/librispeech_conformer_hop_length160)
    # More data, fewer epochs.
    case "${train_set}" in
        train_clean_100) args="--max_epoch 100" ;;
        train_clean_460) args="--max_epoch 50" ;;
        train_960) args="--max_epoch 30" ;;
        *)
            echo "$0: unknown --train_set ${train_set}; choose train_clean_100, train_clean_460 or train_960" >&2
            exit 2
            ;;
    esac
fi

case "${teacher}" in
    '') ;;
    hubert) taken=(--teacher_config conf/train_teacher_hubert_ctc.yaml) ;;
    *) taken=(--teacher "${teacher}") ;;
esac

student "${size}_symmetric" "${distilled}" "${args}"
student "${size}_no_distillation" "${distilled}" "${args} --model_conf kd.weight=0"
student "${size}_label_free" "${distilled}" "${args} --model_conf kd.weight=1" "${unlabeled}"

distil --local_data_opts "${librispeech} ${data}" --lang en "${settings[@]}" "${taken[@]}" "${options[@]}"
