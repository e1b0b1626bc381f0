#!/usr/bin/env bash
# Sourced by run.sh: several students of one teacher.
#   student <tag> <asr_config> [<asr_args> [<options of kd.sh>]]
#                                             names one; the first has to be distilled
#   distil <options of kd.sh> ...             trains, decodes and scores all of them
# Data and teacher come first, then the trainings, as many at once as --nj says where
# there is no GPU, then one decoding after the other, so that their speeds compare; with
# decode_at_once=true each right after its training, which is faster.

students=()
decode_at_once=false
student() {
    students+=("$1|$2|${3:-}|${4:-}")
}

refuse() {
    echo "$0: $*" >&2
    exit 2
}

distil() {
    local from=0 to=16 nj=4 ngpu=1 more='' options=()
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
        if ! [[ ${name} =~ ^([0-9]|1[0-6])$ ]]; then
            refuse "there is no stage '${name}'; give one from 0 to 16"
        fi
    done
    local at_once=1
    [ "${ngpu}" -ne 0 ] || at_once=${nj}

    local entry pids=() tags=() last=11 prepared=
    ! ${decode_at_once} || last=13
    for entry in "${students[@]}"; do
        # Those with other options may want other data.
        [[ ${prepared} != *"|${entry##*|}|"* ]] || continue
        prepared+="|${entry##*|}|"
        phase 0 9 "${entry}"
    done
    for entry in "${students[@]}"; do
        # What each learns from, one after the other: some share it.
        phase 7 9 "${entry}"
    done
    for entry in "${students[@]}"; do
        [ "${from}" -le "${last}" ] && [ "${to}" -ge 10 ] || break
        while [ "$(jobs -rp | wc -l)" -ge "${at_once}" ]; do
            wait -n || break
        done
        mkdir -p log
        if [ "${at_once}" -gt 1 ]; then
            echo "Training ${entry%%|*}; see log/${entry%%|*}.log"
            phase 10 "${last}" "${entry}" >"log/${entry%%|*}.log" 2>&1 &
            pids+=($!)
            tags+=("${entry%%|*}")
        else
            phase 10 "${last}" "${entry}"
        fi
    done
    local i
    for i in "${!pids[@]}"; do
        if ! wait "${pids[i]}"; then
            echo "The training ${tags[i]} failed. The end of log/${tags[i]}.log:" >&2
            tail -n 20 "log/${tags[i]}.log" >&2
            exit 1
        fi
    done
    for entry in "${students[@]}"; do
        ! ${decode_at_once} || entry=${students[0]} # for RESULTS.md, when all are there
        phase 12 13 "${entry}"
        ! ${decode_at_once} || break
    done
    phase 14 14 "${students[0]}"
    for entry in "${students[@]}"; do
        phase 15 16 "${entry}"
    done
}

phase() { # <first stage> <last stage> <student>
    local first=$(($1 > from ? $1 : from)) last=$(($2 < to ? $2 : to))
    [ "${first}" -le "${last}" ] || return 0
    local tag config args own
    IFS='|' read -r tag config args own <<<"$3"
    # shellcheck disable=SC2086  # options of its own are several words
    ./kd.sh --asr_tag "${tag}" --asr_config "${config}" --asr_args "${args}${more}" \
        "${options[@]}" ${own} --stage "${first}" --stop_stage "${last}"
}
