# Training with ESPnet, for the stages of kd.sh that train a teacher or a student.
# shellcheck shell=bash disable=SC2154  # the options and names of kd.sh

# What a training configuration reads, a line each, "name=value"; its model is built once
# to see that it can be.
describe() { # <configuration> <flags> ...
    local key checked named
    # The configuration may take methods from other files, and so may the flags.
    named=$(grep -hoE "[^][ ={}:,\"']+\.ya?ml" "$1" <(echo "${@:2}") | sort -u || true)
    key=$({
        cat "$1"
        echo "${@:2}" "$("${python_cmd[@]}" -c 'import espnet_ctckd; print(espnet_ctckd.__version__)')"
        echo normalize # what older files lack
        if [ -n "${named}" ]; then xargs -d '\n' cat <<<"${named}" 2>/dev/null || true; fi
    } | sha256sum | cut -c1-16)
    checked=${expdir}/.checked/${key}
    if ! [ -s "${checked}" ]; then
        mkdir -p "${expdir}/.checked"
        if ! "${module[@]}" espnet_ctckd.bin.check_config --config "$@" \
            >"${checked}.$$" 2>"${checked}.$$.log"; then
            tail -n 1 "${checked}.$$.log" >&2
            rm "${checked}.$$" "${checked}.$$.log"
            refuse "$*: not a usable training configuration"
        fi
        rm "${checked}.$$.log"
        mv "${checked}.$$" "${checked}"
    fi
    grep -E '^[a-z]+=' "${checked}"
}

# The lines of `describe` as an array.
read_into() { # <associative array> <lines>
    local -n _values=$1
    local name value
    while IFS='=' read -r name value; do
        # shellcheck disable=SC2004  # names, not numbers
        _values[${name}]=${value}
    done <<<"$2"
}

# The flags that say which tokens a student has, as the array token_flags.
set_token_flags() {
    local type=${token_type}
    if [ -n "${teacher}" ]; then
        type=$(cat "${token_dir}/token_type")
    fi
    token_flags=(--token_type "${type}" --token_list "${token_list}")
    if [ -f "${token_dir}/bpe.model" ]; then
        token_flags+=(--bpemodel "${token_dir}/bpe.model")
    fi
}

# The flags that give transcripts to a training, as the array text_flags.
set_text_flags() { # <folder> <train set>
    # shellcheck disable=SC2034  # for the stages
    text_flags=(--train_data_path_and_name_and_type "${data}/$1/$2/text,text,text"
        --valid_data_path_and_name_and_type "${data}/$1/${valid_set}/text,text,text")
}

# Leave out of training and dev set what cannot be trained on.
fit_data() { # <folder> <cache or nothing> <configuration> <train set> <flags> ...
    local dir=${data}/$1 cached=$2 config=$3 set files key
    for set in "$4" "${valid_set}"; do
        needs "${data}/${set}/wav.scp" 4
        needs "${token_list}" "${token_stage}"
        files=("${data}/${set}/wav.scp" "${token_list}")
        if [ -f "${data}/${set}/text" ]; then
            files+=("${data}/${set}/text")
        fi
        if [ -n "${cached}" ]; then
            needs "${cached}/${set}/meta.json" 7
            files+=("${cached}/${set}/meta.json")
        fi
        key="${filter_flags[*]} $(cat "${files[@]}" | cksum)"
        finished "${dir}/${set}/.done.stage4" "${key}" ||
            once "${dir}/${set}/.done.stage4" "${key}" -- \
                fit_set "${dir}" "${cached}" "${config}" "${set}" "${@:5}"
    done
}

fit_set() { # <folder> <cache or nothing> <configuration> <set> <flags> ...
    local dir=$1 config=$3 set=$4 listed=()
    if [ -n "$2" ]; then
        listed=(--cache "$2/${set}")
    fi
    log "Leave out what cannot be trained on: ${data}/${set} -> ${dir}/${set}"
    set_token_flags
    shown "${dir}/.${set}.log" "${module[@]}" espnet_ctckd.bin.filter_data \
        --input_dir "${data}/${set}" --output_dir "${dir}/${set}" "${listed[@]}" \
        "${filter_flags[@]}" --asr_config "${config}" "${token_flags[@]}" "${@:5}"
}

# Divide a list into those of the jobs: <name>.JOB.scp.
divide() { # <list> <jobs> <folder and name>
    local job
    mkdir -p "$(dirname "$3")"
    for ((job = 1; job <= $2; job++)); do
        awk -v j="${job}" -v n="$2" 'NR % n == j % n' "$1" >"$3.${job}.scp"
    done
}

# ESPnet's statistics of a training and a dev set.
collect() { # <folder> <configuration> <folder of the data> <train set> <flags> ...
    local dir=$1 config=$2 train_scp=${data}/$3/$4/wav.scp valid_scp=${data}/$3/${valid_set}/wav.scp
    local jobs job inputs=()
    jobs=$(count_jobs "${nj}" "${valid_scp}")
    divide "${train_scp}" "${jobs}" "${dir}/logdir/train"
    divide "${valid_scp}" "${jobs}" "${dir}/logdir/valid"
    set_token_flags
    "${train_jobs[@]}" JOB=1:"${jobs}" "${dir}/logdir/stats.JOB.log" \
        "${module[@]}" espnet_ctckd.bin.asr_train --collect_stats true \
        --config "${config}" "${token_flags[@]}" \
        --output_dir "${dir}/logdir/stats.JOB" \
        --train_data_path_and_name_and_type "${train_scp},speech,sound" \
        --valid_data_path_and_name_and_type "${valid_scp},speech,sound" \
        --train_shape_file "${dir}/logdir/train.JOB.scp" \
        --valid_shape_file "${dir}/logdir/valid.JOB.scp" "${@:5}" --normalize none --ngpu 0
    for ((job = 1; job <= jobs; job++)); do
        inputs+=(--input_dir "${dir}/logdir/stats.${job}")
    done
    shown "${dir}/logdir/aggregate.log" "${module[@]}" espnet2.bin.aggregate_stats_dirs \
        "${inputs[@]}" --output_dir "${dir}"
}

# Train, or train on; the terminal shows a line an epoch.
train_espnet() { # <experiment> <configuration> <its normalize> <threads> <statistics> <folder> <train set> <flags> ...
    local exp=$1 config=$2 threads=$4 stats=$5 command
    set_token_flags
    command=("${module[@]}" espnet_ctckd.bin.asr_train --config "${config}"
        "${token_flags[@]}" --output_dir "${exp}" --ngpu "${ngpu}" --resume true
        --train_data_path_and_name_and_type "${data}/$6/$7/wav.scp,speech,sound"
        --valid_data_path_and_name_and_type "${data}/$6/${valid_set}/wav.scp,speech,sound"
        --train_shape_file "${stats}/train/speech_shape"
        --valid_shape_file "${stats}/valid/speech_shape")
    # A configuration may say itself how it normalizes, or that it does not.
    if [ "$3" = default ]; then
        command+=(--normalize "${feats_normalize}")
        if [ "${feats_normalize}" = global_mvn ]; then
            command+=(--normalize_conf "stats_file=${stats}/train/feats_stats.npz")
        fi
    fi
    command+=(--multiprocessing_distributed true "${@:8}")
    mkdir -p "${exp}"
    {
        printf '#!/usr/bin/env bash\n# Trains on from the last epoch.\n'
        echo "cd $(quoted "${PWD}") && . ./path.sh && OMP_NUM_THREADS=${threads} $(quoted "${command[@]}")"
    } >"${exp}/run.sh"
    chmod +x "${exp}/run.sh"
    "${python_cmd[@]}" utils/show_epochs.py --log "${exp}/train.log" -- \
        "${cuda_jobs[@]}" --gpu "${ngpu}" --num_threads "${threads}" "${exp}/train.log" \
        "${command[@]}"
}
