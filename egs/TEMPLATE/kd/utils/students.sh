#!/usr/bin/env bash
# Sourced by run.sh: several students of one teacher.
#   student <tag> <asr_config> [<asr_args> [<options of kd.sh>]]
#                                             names one; the first has to be distilled
#   distil <options of kd.sh> ...             trains, decodes and scores all of them
# Data and teacher come first, then the trainings, as many at once as --nj says where
# there is no GPU, then one decoding after the other, so that their speeds compare; with
# decode_at_once=true each right after its training, which is faster.

_kd=$(dirname "$(readlink -f ./kd.sh)")
# shellcheck source=stages/table.sh
. "${_kd}/stages/table.sh"
# shellcheck source=utils/stage.sh
. "${_kd}/utils/stage.sh"

students=() # their tags
declare -A config_of=() args_of=() options_of=()
decode_at_once=false
student() {
    students+=("$1")
    config_of[$1]=$2
    args_of[$1]=${3:-}
    options_of[$1]=${4:-}
}

refuse() {
    echo "$0: $*" >&2
    exit 2
}

distil() {
    local from=0 to=${last_stage} nj=4 ngpu=1 more='' options=()
    while [ $# -gt 0 ]; do
        case "$1" in
            --help | -h)
                sed -n '2,/^set /{/^#/p}' "$0" | cut -c3-
                exec ./kd.sh --help
                ;;
            --*) [ $# -gt 1 ] || refuse "the option $1 needs a value" ;;&
            --asr[-_]tag | --asr[-_]config) refuse "$1 is for kd.sh; the students of this recipe stand in $0" ;;
            --asr[-_]args) more=" $2" ;;
            --stage) from=${2:-} ;;
            --stop[-_]stage) to=${2:-} ;;
            --nj) nj=${2:-} ;;&
            --ngpu) ngpu=${2:-} ;;&
            --*) options+=("$1" "$2") ;;
            *) refuse "no positional arguments are taken: $1" ;;
        esac
        shift 2
    done
    local name
    for name in "${from}" "${to}"; do
        is_stage "${name}" || refuse "there is no stage '${name}'; give one from 0 to ${last_stage}"
    done
    local at_once=1
    if [ "${ngpu}" -eq 0 ]; then
        at_once=${nj}
    fi
    local dump train decode score report pack
    dump=$(number_of dump_teacher)
    train=$(number_of train_student)
    decode=$(number_of decode_sets)
    score=$(number_of score_sets)
    report=$(number_of write_report)
    pack=$(number_of pack_student)

    local tag last=$((decode - 1))
    local -A prepared=()
    if ${decode_at_once}; then
        last=${score}
    fi
    for tag in "${students[@]}"; do
        # Those with other options may want other data.
        if [ -z "${prepared["_${options_of[${tag}]}"]:-}" ]; then
            prepared["_${options_of[${tag}]}"]=true
            phase 0 $((train - 1)) "${tag}"
        fi
    done
    for tag in "${students[@]}"; do
        # What each learns from, one after the other: some share it.
        phase "${dump}" $((train - 1)) "${tag}"
    done
    if [ "${from}" -le "${last}" ] && [ "${to}" -ge "${train}" ]; then
        train_all "${train}" "${last}" "${at_once}"
    fi
    if ${decode_at_once}; then
        phase "${decode}" "${score}" "${students[0]}" # for RESULTS.md, when all are there
    else
        for tag in "${students[@]}"; do
            phase "${decode}" "${score}" "${tag}"
        done
    fi
    phase "${report}" "${report}" "${students[0]}"
    for tag in "${students[@]}"; do
        phase "${pack}" "${last_stage}" "${tag}"
    done
}

train_all() { # <first stage> <last stage> <trainings at once>
    local tag pids=() tags=() i
    mkdir -p log
    for tag in "${students[@]}"; do
        if [ "$3" -eq 1 ]; then
            phase "$1" "$2" "${tag}"
            continue
        fi
        while [ "$(jobs -rp | wc -l)" -ge "$3" ]; do
            wait -n || break
        done
        echo "Training ${tag}; see log/${tag}.log"
        # The terminal has a line an epoch of each.
        phase "$1" "$2" "${tag}" 2>&1 | tee "log/${tag}.log" | sed -un "s/^epoch /${tag}: &/p" &
        pids+=($!)
        tags+=("${tag}")
    done
    for i in "${!pids[@]}"; do
        if ! wait "${pids[i]}"; then
            echo "The training ${tags[i]} failed. The end of log/${tags[i]}.log:" >&2
            tail -n 20 "log/${tags[i]}.log" >&2
            exit 1
        fi
    done
}

phase() { # <first stage> <last stage> <student>
    local first=$(($1 > from ? $1 : from)) last=$(($2 < to ? $2 : to)) own
    if [ "${first}" -le "${last}" ]; then
        words own "${options_of[$3]}"
        ./kd.sh --asr_tag "$3" --asr_config "${config_of[$3]}" \
            --asr_args "${args_of[$3]}${more}" "${options[@]}" "${own[@]}" \
            --stage "${first}" --stop_stage "${last}"
    fi
}
