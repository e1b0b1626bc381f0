#!/usr/bin/env bash
# Sourced by the recipes of AN4: what they have in common.
#   student <tag> <asr_config> [<asr_args> [<options of kd.sh>]]    names a student
#   distilled <selector> <lambda> [<seed> [<reduction>]]            one that is distilled;
#                                                  symmetric2: with two neighbours
#   distil_an4 <options of the recipe> ...        trains, decodes and scores all of them
# --an4 <folder> is the corpus; the other options are those of kd.sh.

# shellcheck source=../../TEMPLATE/kd/utils/students.sh
. utils/students.sh
conf=../../../conf
# shellcheck disable=SC2034  # for the recipes
plain=${conf}/train_student_ctc_small.yaml
kd=${conf}/train_student_ctckd_small.yaml

distilled() {
    local tag=$1_lambda$2 args="--model_conf kd.weight=$2 --model_conf kd.selector=${1%%[0-9]*}"
    case "$1" in
        symmetric) ;;
        symmetric*) args+=" --model_conf kd.selector_conf.n=${1#symmetric}" ;;
        *) args+=" --model_conf kd.selector_conf={}" ;;&
        threshold) args+=" --model_conf kd.selector_conf.theta=0.1" ;;
        random) args+=" --model_conf kd.selector_conf.ratio=1.0" ;;
    esac
    if [ -n "${4:-}" ]; then
        tag+=_$4
        args+=" --model_conf kd.reduction=$4"
    fi
    with_seed "${3:-0}" "${tag}" "${kd}" "${args}"
}

with_seed() { # <seed> <arguments of student>
    local seed=$1 tag=$2 config=$3 args=$4
    shift 4
    if [ "${seed}" != 0 ]; then
        tag+=_seed${seed}
        args+=" --seed ${seed}"
    fi
    student "${tag}" "${config}" "${args# }" "$@"
}

distil_an4() {
    local data='' options=()
    while [ $# -gt 0 ]; do
        case "$1" in
            --an4) data="--an4 ${2:?give --an4 a folder}" && shift ;;
            *) options+=("$1") ;;
        esac
        shift
    done
    distil --local_data_opts "${data}" --train_set train --valid_set valid --test_sets test \
        --token_type char --teacher_num_threads 2 --lang en \
        --teacher_config ${conf}/train_teacher_ctc_small.yaml "${options[@]}"
}
