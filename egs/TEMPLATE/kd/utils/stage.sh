# What the stages of kd.sh share: messages, finished work, words, logs.
# shellcheck shell=bash

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

refuse() {
    log "Error: $*" >&2
    exit 2
}

needs() { # <file> <stage that makes it>
    if ! [ -s "$1" ]; then
        refuse "there is no $1: run stage $2"
    fi
}

count_jobs() { # <most> <list>: the jobs that are worth starting
    local lines
    lines=$(wc -l <"$2")
    echo $((lines < $1 ? lines : $1))
}

# Finished work leaves a marker that holds its key: the options and inputs that it had.
finished() { # <marker> <key>
    [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]
}

# Run a command unless its marker shows that it finished with the same key. In a list,
# give it last: errors of what stands before || or && do not stop a script.
once() { # <marker> <key> -- <command> ...
    local marker=$1 key=$2 name=${1##*.done.}
    shift 3
    if finished "${marker}" "${key}"; then
        log "Stage ${name#stage}: already finished; remove ${marker} to do it again"
        return
    fi
    if [ -f "${marker}" ]; then
        log "Stage ${name#stage}: the options have changed; doing it again"
        rm "${marker}"
    fi
    "$@"
    mkdir -p "$(dirname "${marker}")"
    printf '%s' "${key}" >"${marker}"
}

# An experiment goes on with the options that it began with.
same_options() { # <folder> <options>
    if [ -f "$1/.options" ] && [ "$(cat "$1/.options")" != "$2" ]; then
        refuse "$1 was begun with other options; choose another tag, or delete it"
    fi
    mkdir -p "$1"
    printf '%s' "$2" >"$1/.options"
}

# Divide a string of flags into an array. A blank inside of {} or [], or of quotes that
# begin a word or a value, divides nothing: "--model_conf kd={base: a.yaml, weight: 1}"
# is two words.
words() { # <array> <string>
    local -n _words=$1
    local rest=$2 char word='' begun=false quote='' depth=0 last=' '
    _words=()
    while [ -n "${rest}" ]; do
        char=${rest:0:1}
        rest=${rest:1}
        if [ -n "${quote}" ]; then
            if [ "${char}" = "${quote}" ]; then quote=; else word+=${char}; fi
        elif [ "${depth}" -eq 0 ] && [[ ${char} == [\'\"] && ${last} == [[:space:]=] ]]; then
            quote=${char}
            begun=true
        elif [ "${depth}" -eq 0 ] && [[ ${char} == [[:space:]] ]]; then
            if ${begun}; then _words+=("${word}"); fi
            word=
            begun=false
        else
            case "${char}" in
                '{' | '[') depth=$((depth + 1)) ;;
                '}' | ']') depth=$((depth > 0 ? depth - 1 : 0)) ;;
            esac
            word+=${char}
            begun=true
        fi
        last=${char}
    done
    if [ -n "${quote}" ] || [ "${depth}" -gt 0 ]; then
        refuse "a bracket or quote is not closed in '$2'"
    fi
    if ${begun}; then _words+=("${word}"); fi
}

# A command line as one would type it.
quoted() { # <word> ...
    local word line=''
    for word in "$@"; do
        if [[ ${word} =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
            line+=" ${word}"
        else
            line+=" $(printf '%q' "${word}")"
        fi
    done
    echo "${line# }"
}

# Lines of libraries that no user needs to see.
without_notices() {
    sed -u -e '/^\[nltk_data\]/d' -e '/[Ff]lash[ -]\?[Aa]tt/d' -e '/flash_attn/d' \
        -e '/CUDA initialization/d' -e '/Set decoder to none as ctc_weight==1.0/d'
}

# Run a command; the terminal shows what it prints and its warnings, <log> has everything.
# Where it fails, its error is shown.
shown() { # <log> <command> ...
    local log=$1
    shift
    mkdir -p "$(dirname "${log}")"
    : >"${log}"
    # shellcheck disable=SC2094  # both append
    if "$@" 2>>"${log}" </dev/null | tee -a "${log}" | without_notices; then
        without_notices <"${log}" | sed -n 's/^.* WARNING: /warning: /p'
        return
    fi
    if tail -n 1 "${log}" | grep -q '^error: '; then
        tail -n 1 "${log}" >&2
    else
        echo "$* failed. The end of ${log}:" >&2
        without_notices <"${log}" | tail -n 15 | sed 's/^/    /' >&2
    fi
    return 1
}
