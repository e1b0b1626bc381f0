#!/usr/bin/env bash
# Distil a CTC teacher into a small CTC student with ESPnet, from data to results.
# shellcheck disable=SC2046,SC2086  # options are meant to be split into words

set -euo pipefail

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
SECONDS=0

# General
stage=0
stop_stage=16
skip_data_prep=false
skip_teacher=false
skip_train=false
skip_eval=false
skip_packing=true
skip_upload_hf=true
ngpu=1
num_nodes=1
nj=4
inference_nj=1
gpu_inference=false
num_threads=1
dumpdir=dump
expdir=exp
python=python3

# Data
local_data_opts=
speed_perturb_factors=
feats_type=raw
audio_format=flac
fs=16000
min_wav_duration=0.1
max_wav_duration=20
max_bad_share=1
train_set=
valid_set=
test_sets=
unlabeled_set=
lang=noinfo

# Tokens
token_type=bpe
nbpe=500
bpemode=unigram
bpe_train_text=

# Teacher
teacher=
teacher_type=espnet
teacher_conf=
teacher_max_wer=70
teacher_config=
teacher_args=
teacher_tag=
teacher_nj=
teacher_top_k=0
teacher_dump_args=
gpu_teacher=false
teacher_num_threads=

# Student
asr_tag=
asr_exp=
asr_config=
asr_args=
asr_stats_dir=
pretrained_model=
feats_normalize=global_mvn

# Decoding
inference_tag=
inference_config=
inference_args=
lm=
lexicon=
lm_tune_args="--lm_scales 0.125 0.25 0.5 1 --word_scores -1 0 1 2"
inference_tool=ctckd
inference_asr_model=
score_opts=
download_model=
pack_args=
hf_repo=

help_message=$(cat <<END
Usage: $0 --train_set <name> --valid_set <name> --test_sets "<names>" \\
    --asr_config <yaml> [--teacher_config <yaml> | --teacher <folder or tag>] [options]

Stages
    0 check the machine and the configuration, fetch the corpus
    1 data preparation                 9 collect statistics
    2 speed perturbation              10 student training
    3 format audio                    11 export the student as a plain ESPnet model
    4 leave out unusable utterances   12 decoding
    5 token list                      13 scoring -> RESULTS.md
    6 teacher: take or train          14 report.html and the table
    7 teacher inference -> cache      15 pack the model
    8 check cache and teacher         16 upload to Hugging Face
A finished stage is not done again; what it would need for that is said.

General
    --stage, --stop_stage   # First and last stage (default="${stage}", "${stop_stage}").
    --skip_data_prep        # Skip stages 0-4 (default="${skip_data_prep}").
    --skip_teacher          # Skip stages 6-8 (default="${skip_teacher}").
    --skip_train            # Skip stages 9-11; with --skip_teacher also 2 and 5, and the
                            # training set in 3 and 4 (default="${skip_train}").
    --skip_eval             # Skip stages 12-14 (default="${skip_eval}").
    --skip_packing          # Skip stage 15 (default="${skip_packing}").
    --skip_upload_hf        # Skip stage 16 (default="${skip_upload_hf}").
    --ngpu                  # GPUs; 0 computes on the CPU (default="${ngpu}").
    --num_nodes             # Machines of a training (default="${num_nodes}").
    --nj                    # Parallel jobs of data preparation (default="${nj}").
    --inference_nj          # Parallel jobs of decoding (default="${inference_nj}").
    --gpu_inference         # Decode on a GPU (default="${gpu_inference}").
    --num_threads           # CPU threads of a training (default="${num_threads}").
    --dumpdir, --expdir     # Folders (default="${dumpdir}", "${expdir}").
    --python                # Interpreter (default="${python}").
Data
    --local_data_opts       # Options for local/data.sh (default="${local_data_opts}").
    --speed_perturb_factors # e.g. "0.9 1.0 1.1" (default="${speed_perturb_factors}").
    --feats_type            # raw: audio (default="${feats_type}").
    --audio_format          # Of perturbed audio: flac, wav (default="${audio_format}").
    --fs                    # Samples per second (default="${fs}").
    --min_wav_duration, --max_wav_duration
                            # Seconds (default="${min_wav_duration}", "${max_wav_duration}").
    --max_bad_share         # Percent of a set that may be unusable: audio that cannot be
                            # read, transcripts that the tokens do not spell or that do
                            # not fit their frames. It is left out of training and dev
                            # sets, and listed; in test sets it counts as an empty
                            # hypothesis (default="${max_bad_share}").
    --train_set, --valid_set, --test_sets
                            # Names of folders below data/.
    --unlabeled_set         # Folder of audio files, or name below data/, without
                            # transcripts, added to a label-free training (default="").
    --lang                  # Language, for the names of folders (default="${lang}").
Tokens
    --token_type            # bpe, char, word or phn (default="${token_type}"); with
                            # --teacher it is the teacher's own.
    --nbpe, --bpemode       # Of sentencepiece (default="${nbpe}", "${bpemode}").
    --bpe_train_text        # Text to train it on (default: the training set's).
Teacher
    --teacher               # Folder with config.yaml and weights, packed zip, or tag of
                            # ESPnet's model zoo or Hugging Face (default: train one).
    --teacher_type          # Kind of it: espnet, huggingface (id or folder), torchaudio
                            # (bundle), python (package.module:factory), ensemble (YAML)
                            # (default="${teacher_type}").
    --teacher_conf          # Options of the kind, e.g. "language=eng" for OWSM-CTC
                            # (default="").
    --teacher_max_wer       # Percent of word errors on the dev set with which a teacher
                            # is refused (default="${teacher_max_wer}").
    --teacher_config        # Configuration to train one with.
    --teacher_args          # Further flags of its training (default="${teacher_args}").
    --teacher_tag           # Name of its folder (default: from its configuration).
    --teacher_nj            # Parallel jobs of its inference (default: nj).
    --teacher_top_k         # Tokens kept of a frame; 0: all (default="${teacher_top_k}").
    --teacher_dump_args     # Further flags of dump_teacher, e.g. "--step 0.5", "--selector
                            # symmetric --selector_conf {n:1}" (default="${teacher_dump_args}").
    --gpu_teacher           # Infer on a GPU (default="${gpu_teacher}").
    --teacher_num_threads   # CPU threads of its training (default: num_threads).
Student
    --asr_config            # Training configuration.
    --asr_args              # Further flags of asr_train (default="${asr_args}").
    --asr_tag, --asr_exp    # Name or folder of the experiment.
    --asr_stats_dir         # Folder of the statistics.
    --pretrained_model      # Weights to start from (default="${pretrained_model}").
    --feats_normalize       # global_mvn or utterance_mvn (default="${feats_normalize}").
Decoding
    --inference_tool        # ctckd: batched, greedy where --inference_config says
                            # nothing else; stream: greedy, piece by piece; espnet:
                            # espnet2.bin.asr_inference (default="${inference_tool}").
    --inference_config, --inference_args
                            # For it.
    --lm                    # n-gram model of KenLM (ARPA, gzipped or not, or binary):
                            # decode with it and a lexicon, at scales that are best on
                            # the dev set.
    --lexicon               # Words that may be said: a list, a dictionary, or an ARPA
                            # file (default: those of --lm).
    --lm_tune_args          # Scales to try, and other flags of tune_decoding
                            # (default="${lm_tune_args}").
    --inference_tag         # Name of the results' folder.
    --inference_asr_model   # Checkpoint (default: best by dev CER; label-free: by
                            # the dev loss of what it learns from; each averaged).
    --score_opts            # Text normalization, for all systems alike: e.g.
                            # "--case lower --remove .,?!" (default="${score_opts}").
    --download_model        # Tag of a model to decode instead of training one.
    --pack_args             # Further flags of pack, e.g. "--resumable --data AN4
                            # --license cc-by-4.0" (default="${pack_args}").
    --hf_repo               # Repository to upload to, e.g. "me/student".
END
)

run_args=("$@")
# shellcheck disable=SC1091
. utils/parse_options.sh
# shellcheck disable=SC1091
. ./path.sh
# shellcheck source=cmd.sh
. ./cmd.sh

if [ $# -ne 0 ]; then
    echo "${help_message}"
    log "Error: no positional arguments are taken: $*"
    exit 2
fi

refuse() {
    log "Error: $*" >&2
    exit 2
}

for name in stage stop_stage; do
    [[ ${!name} =~ ^([0-9]|1[0-6])$ ]] || refuse "there is no --${name} ${!name}; give one from 0 to 16"
done
for name in ngpu num_nodes nj inference_nj num_threads nbpe fs teacher_top_k; do
    [[ ${!name} =~ ^[0-9]+$ ]] || refuse "--${name} is '${!name}'; give a whole number"
done
for name in dumpdir expdir train_set valid_set teacher asr_tag; do
    [[ ${!name} != *[[:space:]]* ]] || refuse "--${name} has a space in it: '${!name}'"
done
for name in train_set valid_set test_sets asr_config; do
    [ -n "${!name}" ] || refuse "--${name} is missing (see --help)"
done
[ -r "${asr_config}" ] || refuse "there is no --asr_config ${asr_config}"
[ "${feats_type}" = raw ] || refuse "--feats_type is '${feats_type}'; only raw is there yet"
[[ ${inference_tool} =~ ^(ctckd|stream|espnet)$ ]] || refuse "unknown --inference_tool '${inference_tool}'; choose ctckd, stream or espnet"
[[ ${feats_normalize} =~ ^(global_mvn|utterance_mvn)$ ]] || refuse "unknown --feats_normalize '${feats_normalize}'; choose global_mvn or utterance_mvn"
[[ ${teacher_type} =~ ^(espnet|huggingface|torchaudio|python|ensemble)$ ]] || refuse "unknown --teacher_type '${teacher_type}'; choose espnet, huggingface, torchaudio, python or ensemble"
[ "${teacher_type}" = espnet ] || [ -n "${teacher}" ] || refuse "a teacher of the type ${teacher_type} needs --teacher"
if [ -n "${teacher}" ] && [ -n "${teacher_config}" ]; then
    teacher_config=
fi
if [ -n "${download_model}" ]; then
    skip_train=true
    [ -n "${teacher}${teacher_config}" ] || skip_teacher=true
else
    [ -n "${teacher}${teacher_config}" ] || refuse "give --teacher or --teacher_config"
fi

teacher_nj=${teacher_nj:-${nj}}
teacher_num_threads=${teacher_num_threads:-${num_threads}}
bin="${python} -m espnet_ctckd.bin"

runs() { # whether stage $1 is asked for
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}

# A stage leaves a marker with the options that it ran with.
begin() { # <number> <folder> <options>
    marker=$2/.done.stage$1
    options=$3
    if [ -f "${marker}" ]; then
        if [ "$(cat "${marker}")" = "${options}" ]; then
            log "Stage $1: already finished; remove ${marker} to do it again"
            return 1
        fi
        log "Stage $1: the options have changed; doing it again"
        rm "${marker}"
    fi
}

finish() {
    mkdir -p "$(dirname "${marker}")"
    printf '%s' "${options}" >"${marker}"
}

# An experiment goes on with what it began with.
guard() { # <folder> <options>
    if [ -f "$1/.options" ] && [ "$(cat "$1/.options")" != "$2" ]; then
        refuse "$1 was begun with other options; choose another tag, or delete it"
    fi
    mkdir -p "$1"
    printf '%s' "$2" >"$1/.options"
}

needs() { # <file> <stage that makes it>
    [ -s "$1" ] || refuse "there is no $1: run stage $2"
}

lines() { # jobs that are worth starting for a list: min($1, its lines)
    local n
    n=$(wc -l <"$2")
    echo $((n < $1 ? n : $1))
}

# What this student reads, by its configuration, which is built once to see that it can
# be; decoding does not need to know.
described=
if [ "${stage}" -le 11 ] && [ -z "${download_model}" ]; then
    version=$(${python} -c 'import espnet_ctckd; print(espnet_ctckd.__version__)')
    checked=${expdir}/.checked/$(cat "${asr_config}" <(echo "${asr_args} ${version}") | sha256sum | cut -c1-16)
    if [ ! -s "${checked}" ]; then
        mkdir -p "${expdir}/.checked"
        errors=$(mktemp)
        if ! ${bin}.check_config --config "${asr_config}" ${asr_args} >"${checked}.$$" 2>"${errors}"; then
            tail -n 1 "${errors}" >&2
            rm "${errors}" "${checked}.$$"
            refuse "${asr_config} ${asr_args}: not a usable training configuration"
        fi
        rm "${errors}"
        mv "${checked}.$$" "${checked}"
    fi
    described=$(cat "${checked}")
fi
reads() { grep -q "^$1=true$" <<<"${described}"; }
says() { sed -n "s/^$1=//p" <<<"${described}"; }
learns_from_cache() { reads teacher || [ "${nbest:-0}" -gt 0 ]; }
frontend=$(says frontend)
nbest=$(says nbest)

if [ -n "${unlabeled_set}" ] && reads text; then
    refuse "--unlabeled_set has no transcripts, but ${asr_config} reads them: set kd.weight to 1, and nothing in kd that needs labels"
fi

labeled=${train_set}
[ -z "${speed_perturb_factors}" ] || labeled=${train_set}_sp
train=${labeled}
needs_train=true
! ${skip_train} || ! ${skip_teacher} || needs_train=false
sets=${valid_set}
! ${needs_train} || sets="${labeled} ${valid_set}"
if [ -n "${unlabeled_set}" ]; then
    train=${labeled}_unlabeled
fi

data=${dumpdir}/${feats_type}
if [ -n "${teacher}" ]; then
    teacher_tag=${teacher_tag:-$(basename "${teacher}" | tr ':' '_')}
    token_dir=${expdir}/teacher_${teacher_tag}/tokens
else
    teacher_tag=${teacher_tag:-$(basename "${teacher_config}" .yaml)_${token_type}}
    token_dir=data/token_list/${train_set}_${token_type}
    [ "${token_type}" != bpe ] || token_dir=data/token_list/${train_set}_bpe_${bpemode}${nbpe}
fi
token_list=${token_dir}/tokens.txt
teacher_exp=${expdir}/teacher_${teacher_tag}
cache=${dumpdir}/teacher/${teacher_tag}
[ "${teacher_top_k}" -eq 0 ] || cache=${cache}_top${teacher_top_k}
[ -z "${teacher_dump_args}" ] || cache=${cache}$(tr -s ' {}:,"/-' '_' <<<"${teacher_dump_args}")
! reads states || cache=${cache}_states

if [ -z "${asr_tag}" ]; then
    asr_tag=$(basename "${asr_config}" .yaml)_${lang}_$(basename "${token_dir}")
    [ -z "${asr_args}" ] || asr_tag+=$(tr -s ' {}=:,"/.' '_' <<<"${asr_args/--/}")
    [ -z "${speed_perturb_factors}" ] || asr_tag+=_sp
fi
asr_exp=${asr_exp:-${expdir}/asr_${asr_tag}}
# What can be trained on depends on these.
fit="$(grep -e "^shift=" -e "^shortest=" -e "^text=" <<<"${described}" || true) ${token_dir}"
! learns_from_cache || fit+=" ${cache}"
fit=fit/$(cksum <<<"${fit}" | cut -d' ' -f1)
asr_stats_dir=${asr_stats_dir:-${expdir}/asr_stats_${feats_type}_${train}_${frontend}_${fit#fit/}}
[ -z "${lm}" ] || [ "${inference_tool}" = ctckd ] || refuse "--lm is for --inference_tool ctckd"
# A language model that cannot be read is found before a training, once it is there.
check_lm() {
    local checked
    checked=${expdir}/.checked/lm_$({ stat -L -c '%n %s %Y' "${lm}" ${lexicon} 2>&1 || true; } | cksum | cut -d' ' -f1)
    [ ! -f "${checked}" ] || return 0
    ${bin}.check_lm --lm "${lm}" ${lexicon:+--words "${lexicon}"} || refuse "--lm ${lm} cannot be used"
    mkdir -p "${expdir}/.checked"
    touch "${checked}"
}
needs_lm=false
[ -z "${lm}" ] || [ "${stop_stage}" -lt 12 ] || ${skip_eval} || needs_lm=true
if [ -e "${lm}" ]; then
    check_lm
elif ${needs_lm} && { [ "${stage}" -gt 1 ] || ${skip_data_prep}; }; then
    check_lm # stage 1 will not make it
fi
[ -z "${lm}" ] || inference_tag=${inference_tag:-decode_$(basename "${lm}" | sed 's/\.gz$//; s/\.arpa$//; s/\.bin$//')}
inference_tag=${inference_tag:-decode_${inference_tool}${inference_config:+_$(basename "${inference_config}" .yaml)}}
if [ -n "${download_model}" ]; then
    asr_exp=${expdir}/$(basename "${download_model}")
fi

# The tokens of the student, for whoever needs them.
token_opts() {
    local type=${token_type} model=
    [ "${token_type}" != bpe ] || model=${token_dir}/bpe.model
    if [ -n "${teacher}" ]; then
        type=$(cat "${token_dir}/token_type")
        model=$([ ! -f "${token_dir}/bpe.model" ] || echo "${token_dir}/bpe.model")
    fi
    echo "--token_type ${type} --token_list ${token_list} ${model:+--bpemodel ${model}}"
}

# What can be trained on, of training and dev set:
#   fit_data <folder> <cache or nothing> <configuration> <train set> <flags>
fit_data() ( # in a subshell, so that the marker of the stage around it stays
    dir=${data}/$1 cached=$2 conf=$3
    mkdir -p "${dir}"
    for set in "$4" "${valid_set}"; do
        needs "${data}/${set}/wav.scp" 4
        needs "${token_list}" "$([ -z "${teacher}" ] && echo 5 || echo 6)"
        files=("${data}/${set}/wav.scp" "${token_list}")
        [ ! -f "${data}/${set}/text" ] || files+=("${data}/${set}/text")
        listed=()
        if [ -n "${cached}" ]; then
            needs "${cached}/${set}/meta.json" 7
            listed=(--cache "${cached}/${set}")
            files+=("${cached}/${set}/meta.json")
        fi
        begin 4 "${dir}/${set}" "${filter_opts} $(cat "${files[@]}" | cksum)" >/dev/null || continue
        log "Leave out what cannot be trained on: ${data}/${set} -> ${dir}/${set}"
        # shellcheck disable=SC2086
        ${bin}.filter_data --input_dir "${data}/${set}" --output_dir "${dir}/${set}" "${listed[@]}" \
            ${filter_opts} --asr_config "${conf}" $(token_opts) "${@:5}" 2>"${dir}/.${set}.log" ||
            { tail -n 5 "${dir}/.${set}.log" >&2; exit 1; }
        finish
    done
)

# ESPnet training: train <experiment> <configuration> <threads> <folder> <train set> <flags>
train_espnet() {
    local exp=$1 conf=$2 threads=$3 data=${data}/$4 set=$5
    shift 5
    local opts launch=()
    opts="--config ${conf} $(token_opts) --output_dir ${exp} --ngpu ${ngpu}"
    opts+=" --resume true"
    opts+=" --train_data_path_and_name_and_type ${data}/${set}/wav.scp,speech,sound"
    opts+=" --valid_data_path_and_name_and_type ${data}/${valid_set}/wav.scp,speech,sound"
    opts+=" --train_shape_file ${stats}/train/speech_shape"
    opts+=" --valid_shape_file ${stats}/valid/speech_shape"
    # A configuration may say itself how it normalises, or that it does not.
    grep -q "^normalize:" "${conf}" || opts+=" --normalize ${feats_normalize}"
    [ "${feats_normalize}" != global_mvn ] || grep -q "^normalize:" "${conf}" \
        || opts+=" --normalize_conf stats_file=${stats}/train/feats_stats.npz"
    mkdir -p "${exp}"
    if [ "${num_nodes}" -gt 1 ]; then # not tried
        launch=("${python}" -m espnet2.bin.launch --cmd "${cuda_cmd}"
            --log "${exp}/train.log" --ngpu "${ngpu}" --num_nodes "${num_nodes}"
            --init_file_prefix "${exp}/.dist_init_" --multiprocessing_distributed true --)
    else
        # shellcheck disable=SC2206
        launch=(${cuda_cmd} --gpu "${ngpu}" --num_threads "${threads}" "${exp}/train.log")
        opts+=" --multiprocessing_distributed true"
    fi
    printf '#!/usr/bin/env bash\n# Trains on from the last epoch.\ncd %q && . ./path.sh && OMP_NUM_THREADS=%q %s.asr_train %s %s\n' \
        "${PWD}" "${threads}" "${bin}" "${opts}" "$*" >"${exp}/run.sh"
    chmod +x "${exp}/run.sh"
    "${launch[@]}" ${bin}.asr_train ${opts} "$@"
}

# Statistics: collect <folder> <configuration> <folder of the data> <train set> <flags>
collect() {
    local dir=$1 conf=$2 data=${data}/$3 set=$4 part jobs
    shift 4
    jobs=$(lines "${nj}" "${data}/${valid_set}/wav.scp")
    mkdir -p "${dir}/logdir"
    for part in train valid; do
        local scp=${data}/${set}/wav.scp
        [ "${part}" = train ] || scp=${data}/${valid_set}/wav.scp
        for ((job = 1; job <= jobs; job++)); do
            awk -v j="${job}" -v n="${jobs}" 'NR % n == j % n' "${scp}" >"${dir}/logdir/${part}.${job}.scp"
        done
    done
    ${train_cmd} JOB=1:"${jobs}" "${dir}/logdir/stats.JOB.log" \
        ${bin}.asr_train --collect_stats true --config "${conf}" $(token_opts) \
        --normalize none --ngpu 0 --output_dir "${dir}/logdir/stats.JOB" \
        --train_data_path_and_name_and_type "${data}/${set}/wav.scp,speech,sound" \
        --valid_data_path_and_name_and_type "${data}/${valid_set}/wav.scp,speech,sound" \
        --train_shape_file "${dir}/logdir/train.JOB.scp" \
        --valid_shape_file "${dir}/logdir/valid.JOB.scp" "$@"
    local inputs=()
    for ((job = 1; job <= jobs; job++)); do
        inputs+=(--input_dir "${dir}/logdir/stats.${job}")
    done
    ${python} -m espnet2.bin.aggregate_stats_dirs "${inputs[@]}" --output_dir "${dir}"
}

text_data() { # <folder> <train set>
    echo "--train_data_path_and_name_and_type ${data}/$1/$2/text,text,text" \
        "--valid_data_path_and_name_and_type ${data}/$1/${valid_set}/text,text,text"
}

# Decode and score: decode <set> <scp> <folder> <configuration> <weights>
decode() {
    local gpu=0 tool=${inference_tool}
    ! ${gpu_inference} || gpu=1
    # A teacher hears all of an utterance.
    [ "${tool}" != stream ] || [ "$3" = "${asr_exp}/${inference_tag}/$1" ] || tool=ctckd
    if [ "${tool}" = espnet ]; then
        local jobs
        jobs=$(lines "${inference_nj}" "$2")
        mkdir -p "$3/logdir"
        for ((job = 1; job <= jobs; job++)); do
            awk -v j="${job}" -v n="${jobs}" 'NR % n == j % n' "$2" >"$3/logdir/keys.${job}.scp"
        done
        ${decode_cmd} --gpu "${gpu}" JOB=1:"${jobs}" "$3/logdir/decode.JOB.log" \
            ${python} -m espnet2.bin.asr_inference --ngpu "${gpu}" --ctc_weight 1.0 \
            ${inference_config:+--config "${inference_config}"} \
            --data_path_and_name_and_type "$2,speech,sound" \
            --key_file "$3/logdir/keys.JOB.scp" --output_dir "$3/logdir/output.JOB" \
            --asr_train_config "$4" --asr_model_file "$5" ${inference_args}
        cat "$3"/logdir/output.*/1best_recog/text | sort >"$3/text"
    else
        [ "${tool}" != stream ] || tool=decode_stream
        local config=${inference_config}
        [ -z "${lm}" ] || config=$(dirname "$3")/decode.yaml
        [ "${tool}" = decode_stream ] || tool="decode ${config:+--config ${config}}"
        ${decode_cmd} --gpu "${gpu}" "$3/decode.log" ${bin}.${tool} \
            --ngpu "${gpu}" --asr_train_config "$4" --asr_model_file "$5" \
            --wav_scp "$2" --output_dir "$3" --max_bad_share "${max_bad_share}" ${inference_args}
    fi
}

# Choose the scales of a search with --lm on the dev set: tune <folder> <configuration> <weights>
tune() {
    local gpu=0
    ! ${gpu_inference} || gpu=1
    [ -f "${lm}" ] || refuse "there is no language model ${lm}"
    begin 12 "$1" "${lm_tune_args} ${inference_args} ${score_opts} $(cat "$3" "${lm}" ${lexicon} | cksum)" || return 0
    log "Stage 12: Tune the search with ${lm} on ${valid_set} -> $1/tune.log"
    ${bin}.make_lexicon --words "${lexicon:-${lm}}" --asr_train_config "$2" --output "$1/lexicon.txt"
    ${decode_cmd} --gpu "${gpu}" "$1/tune.log" ${bin}.tune_decoding --ngpu "${gpu}" \
        --method lexicon --blank_collapse 0.999 ${inference_config:+--config "${inference_config}"} \
        --asr_train_config "$2" --asr_model_file "$3" \
        --wav_scp "${data}/${valid_set}/wav.scp" --text "${data}/${valid_set}/text" \
        --lexicon "$1/lexicon.txt" --lm "${lm}" ${score_opts} ${lm_tune_args} --output "$1/decode.yaml"
    grep -e "<- best" -e "at the edge" "$1/tune.log"
    finish
}

if runs 0 && ! ${skip_data_prep}; then
    log "Stage 0: Check the machine, fetch the corpus"
    ${bin}.check_env --ngpu "${ngpu}" --output_dir .
    ! grep -q stop_stage local/data.sh || local/data.sh --stage 1 --stop_stage 1 ${local_data_opts}
fi

if runs 1 && ! ${skip_data_prep} && begin 1 data "${local_data_opts}"; then
    log "Stage 1: Data preparation"
    local/data.sh ${local_data_opts}
    finish
fi
! ${needs_lm} || check_lm
if [ -n "${unlabeled_set}" ] && [ -d "${unlabeled_set}" ]; then
    # A folder of audio becomes a data folder; a finished one is left as it is.
    if runs 1 && ! ${skip_data_prep} && begin 1 data/unlabeled "${unlabeled_set}"; then
        ${python} utils/prepare_unlabeled.py --audio_dir "${unlabeled_set}" --output_dir data/unlabeled
        finish
    fi
    unlabeled_set=unlabeled
fi
${needs_train} || unlabeled_set= # nobody learns from it

if runs 2 && ! ${skip_data_prep} && ${needs_train} && [ -n "${speed_perturb_factors}" ] \
    && begin 2 "data/${labeled}" "${speed_perturb_factors} ${local_data_opts}"; then
    log "Stage 2: Speed perturbation: ${speed_perturb_factors}"
    ${bin}.perturb_speed --input_dir "data/${train_set}" --output_dir "data/${labeled}" \
        --factors "${speed_perturb_factors}"
    finish
fi

if runs 3 && ! ${skip_data_prep}; then
    for set in ${sets} ${test_sets} ${unlabeled_set}; do
        begin 3 "${data}/org/${set}" "${fs} ${audio_format} ${speed_perturb_factors} ${local_data_opts} ${max_bad_share}" || continue
        log "Stage 3: Format audio: data/${set} -> ${data}/org/${set}"
        needs "data/${set}/wav.scp" 1
        jobs=$(lines "${nj}" "data/${set}/wav.scp")
        opts="--input_dir data/${set} --output_dir ${data}/org/${set} --fs ${fs} --audio_format ${audio_format} --num_jobs ${jobs} --max_bad_share ${max_bad_share}"
        ${train_cmd} JOB=1:"${jobs}" "${data}/org/${set}/logs/format.JOB.log" \
            ${bin}.format_audio ${opts} --job JOB
        ${bin}.format_audio ${opts}
        finish
    done
fi

filter_opts="--fs ${fs} --min_wav_duration ${min_wav_duration} --max_wav_duration ${max_wav_duration} --max_bad_share ${max_bad_share}"
if runs 4 && ! ${skip_data_prep}; then
    for set in ${sets} ${unlabeled_set:+${train}}; do
        folders=("${set}")
        [ "${set}" != "${train}" ] || [ -z "${unlabeled_set}" ] || folders=("${labeled}" "${unlabeled_set}")
        begin 4 "${data}/${set}" "${folders[*]} ${filter_opts} ${speed_perturb_factors} ${local_data_opts}" || continue
        log "Stage 4: Leave out unusable utterances: ${folders[*]} -> ${data}/${set}"
        ${bin}.filter_data $(printf -- "--input_dir ${data}/org/%s " "${folders[@]}") --output_dir "${data}/${set}" ${filter_opts}
        finish
    done
fi

if runs 5 && ${needs_train} && [ -z "${teacher}" ] && begin 5 "${token_dir}" "${token_type} ${nbpe} ${bpemode} ${bpe_train_text} ${train_set}"; then
    log "Stage 5: Token list -> ${token_list}"
    mkdir -p "${token_dir}"
    text=${bpe_train_text:-${data}/${labeled}/text}
    needs "${text}" 4
    if [ "${token_type}" = bpe ]; then
        ${bin}.train_bpe --text "${text}" --output_dir "${token_dir}" --vocab_size "${nbpe}" --model_type "${bpemode}"
    else
        ${python} -m espnet2.bin.tokenize_text --token_type "${token_type}" --g2p none \
            --input "${text}" --output "${token_list}.part" --field 2- --cleaner none \
            --write_vocabulary true --add_symbol "<blank>:0" --add_symbol "<unk>:1" --add_symbol "<sos/eos>:-1"
        mv "${token_list}.part" "${token_list}"
    fi
    log "$(wc -l <"${token_list}") tokens"
    finish
fi

teacher_model=("${teacher_exp}/export/config.yaml" "${teacher_exp}/export/model.pth")
[ -z "${teacher}" ] || teacher_model=("${teacher_exp}/config.yaml" "${teacher_exp}/model.pth")
teacher_opts=(--teacher_config "${teacher_model[0]}" --teacher_model "${teacher_model[1]}")
[ "${teacher_type}" = espnet ] || teacher_opts=(--teacher_type "${teacher_type}" --teacher "${teacher}")
for option in ${teacher_conf}; do
    teacher_opts+=(--teacher_conf "${option}")
done
teacher_is_asr() { # a model that decodes as the students do
    [ "${teacher_type}" = espnet ] && ! grep -qs "^promptencoder:" "${teacher_model[0]}"
}

if runs 6 && ! ${skip_teacher}; then
    if [ -n "${teacher}" ]; then
        if begin 6 "${teacher_exp}" "${teacher_type} ${teacher} ${teacher_conf}"; then
            log "Stage 6: Take the teacher ${teacher}"
            if [ "${teacher_type}" = espnet ]; then
                ${bin}.fetch_model --model "${teacher}" --output_dir "${teacher_exp}"
                ${bin}.copy_tokens --teacher_config "${teacher_exp}/config.yaml" --output_dir "${token_dir}"
            else
                ${bin}.copy_tokens "${teacher_opts[@]}" --output_dir "${token_dir}"
            fi
            finish
        fi
    elif begin 6 "${teacher_exp}" "$(sha256sum <"${teacher_config}") ${teacher_args} ${labeled} ${token_dir}"; then
        log "Stage 6: Train the teacher with ${teacher_config} -> ${teacher_exp}/train.log"
        guard "${teacher_exp}" "${options}"
        stats=${teacher_exp}/stats
        fitting=fit/teacher_${teacher_tag}
        fit_data "${fitting}" "" "${teacher_config}" "${labeled}" ${teacher_args}
        text_flags=$(text_data "${fitting}" "${labeled}")
        collect "${stats}" "${teacher_config}" "${fitting}" "${labeled}" ${teacher_args} ${text_flags}
        train_espnet "${teacher_exp}" "${teacher_config}" "${teacher_num_threads}" "${fitting}" "${labeled}" ${teacher_args} ${text_flags}
        ${bin}.export_student --asr_train_config "${teacher_exp}/config.yaml" \
            --asr_model_file "${teacher_exp}/valid.cer_ctc.ave.pth" --output_dir "${teacher_exp}/export"
        finish
    fi
fi
if runs 7 && ! ${skip_teacher}; then
    # The dev set's proves the teacher, also where it runs in the training step; n-best
    # lists are made from the cache.
    sets="${train} ${valid_set}"
    ! reads online || [ "${nbest:-0}" -gt 0 ] || sets=${valid_set}
    for set in ${sets}; do
        begin 7 "${cache}/${set}" "${filter_opts} ${speed_perturb_factors} $(cat "${teacher_exp}/.done.stage6" 2>/dev/null || true)" || continue
        log "Stage 7: Teacher inference: ${set} -> ${cache}/${set}"
        needs "${data}/${set}/wav.scp" 4
        needs "${token_list}" "$([ -z "${teacher}" ] && echo 5 || echo 6)"
        jobs=$(lines "${teacher_nj}" "${data}/${set}/wav.scp")
        gpu=0
        ! ${gpu_teacher} || gpu=1
        ${train_cmd} --gpu "${gpu}" JOB=1:"${jobs}" "${cache}/${set}/logs/dump.JOB.log" \
            ${bin}.dump_teacher "${teacher_opts[@]}" --ngpu "${gpu}" \
            --wav_scp "${data}/${set}/wav.scp" --output_dir "${cache}/${set}" --token_list "${token_list}" \
            --max_bad_share "${max_bad_share}" \
            --top_k "${teacher_top_k}" ${teacher_dump_args} $(! reads states || echo --states) --job JOB --num_jobs "${jobs}"
        grep -h "the cache will take\|^all .* tokens are\|of the teacher's" "${cache}/${set}/logs/dump.1.log"
        finish
    done
fi

if { runs 8 && ! ${skip_teacher} && reads teacher; } || { runs 9 && ! ${skip_train}; }; then
    fit_data "${fit}" "$(! learns_from_cache || echo "${cache}")" "${asr_config}" "${train}" ${asr_args}
fi

if runs 8 && ! ${skip_teacher}; then
    for set in $(! reads teacher || echo "${train}" "${valid_set}"); do
        # Not again for a student that reads the same, while no file has changed.
        files=("${data}/${fit}/${set}/wav.scp" "${cache}/${set}/meta.json" "${token_list}")
        ! reads text || files+=("${data}/${fit}/${set}/text")
        needs "${cache}/${set}/meta.json" 7
        audio=$(cut -d' ' -f2- "${data}/${fit}/${set}/wav.scp" | tr '\n' '\0' | xargs -0 stat -L -c '%n %s %Y' | cksum)
        begin 8 "${cache}/${set}/checked/$(cksum <<<"${described}" | cut -d' ' -f1)" \
            "${described} ${audio} $(cat "${files[@]}" | cksum)" >/dev/null || continue
        log "Stage 8: Check the cache ${cache}/${set}"
        ${bin}.check_cache --cache "${cache}/${set}" --wav_scp "${data}/${fit}/${set}/wav.scp" \
            $(! reads text || echo --text "${data}/${fit}/${set}/text") \
            --asr_config "${asr_config}" $(token_opts) ${asr_args}
        finish
    done
    if [ "${nbest:-0}" -gt 0 ]; then
        for set in ${train} ${valid_set}; do
            dir=${cache}/${set}/nbest${nbest}
            begin 8 "${dir}" "$(cat "${cache}/${set}/.done.stage7")" || continue
            log "Stage 8: N-best lists -> ${dir}"
            ${bin}.dump_nbest --cache "${cache}/${set}" --output_dir "${dir}" --nbest "${nbest}"
            finish
        done
    fi
    if begin 8 "${teacher_exp}" "${score_opts} ${valid_set} ${teacher_max_wer} $(cksum <"${cache}/${valid_set}/meta.json")"; then
        log "Stage 8: Prove the teacher by what it says of ${valid_set}"
        needs "${cache}/${valid_set}/meta.json" 7
        ${bin}.prove_teacher --cache "${cache}/${valid_set}" --text "${data}/${valid_set}/text" \
            --output_dir "${teacher_exp}/${inference_tag}/${valid_set}" \
            --max_wer "${teacher_max_wer}" $(token_opts) ${score_opts}
        finish
    fi
fi

stats=${asr_stats_dir}
text_flags=
[ -n "${unlabeled_set}" ] || text_flags=$(text_data "${fit}" "${train}")
if runs 9 && ! ${skip_train} && begin 9 "${stats}" \
    "${filter_opts} ${local_data_opts} $(cat "${data}/${fit}"/{"${train}","${valid_set}"}/wav.scp | cksum)"; then
    log "Stage 9: Collect statistics -> ${stats}"
    collect "${stats}" "${asr_config}" "${fit}" "${train}" ${asr_args} ${text_flags}
    finish
fi

checkpoint=valid.cer_ctc.ave.pth
reads text || checkpoint=valid.$(says loss).ave.pth
if runs 10 && ! ${skip_train}; then
    options="$(sha256sum <"${asr_config}") ${asr_args} ${train} ${token_dir} ${cache} ${feats_normalize} ${pretrained_model}"
    if begin 10 "${asr_exp}" "${options}"; then
        guard "${asr_exp}" "${options}"
        needs "${token_list}" "$([ -z "${teacher}" ] && echo 5 || echo 6)"
        needs "${stats}/train/speech_shape" 9
        log "Stage 10: Train the student with ${asr_config} ${asr_args} -> ${asr_exp}/train.log"
        flags="${asr_args}"
        ! reads text || flags+=" $(text_data "${fit}" "${train}")"
        # Transcripts of the dev set only, to see the error rate of a label-free student.
        reads text || flags+=" --valid_data_path_and_name_and_type ${data}/${fit}/${valid_set}/text,text,text"
        if reads teacher; then
            flags+=" --train_data_path_and_name_and_type ${cache}/${train}/teacher.scp,teacher,kaldi_ark"
            flags+=" --valid_data_path_and_name_and_type ${cache}/${valid_set}/teacher.scp,teacher,kaldi_ark"
        fi
        if reads online; then
            flags+=" --model_conf kd.teacher.teacher_type=${teacher_type}"
            if [ "${teacher_type}" = espnet ]; then
                flags+=" --model_conf kd.teacher.teacher=$(dirname "${teacher_model[0]}")"
            else
                flags+=" --model_conf kd.teacher.teacher=${teacher}"
            fi
            for option in ${teacher_conf}; do
                flags+=" --model_conf kd.teacher.teacher_conf.${option}"
            done
        fi
        if [ "${nbest}" -gt 0 ]; then
            flags+=" --train_data_path_and_name_and_type ${cache}/${train}/nbest${nbest}/nbest,nbest,text"
            flags+=" --valid_data_path_and_name_and_type ${cache}/${valid_set}/nbest${nbest}/nbest,nbest,text"
        fi
        [ -z "${pretrained_model}" ] || flags+=" --init_param ${pretrained_model}"
        train_espnet "${asr_exp}" "${asr_config}" "${num_threads}" "${fit}" "${train}" ${flags}
        finish
    fi
fi

if runs 11 && ! ${skip_train} && begin 11 "${asr_exp}/export" "${inference_asr_model:-${checkpoint}}"; then
    log "Stage 11: Export ${asr_exp} -> ${asr_exp}/export"
    ${bin}.export_student --asr_train_config "${asr_exp}/config.yaml" \
        --asr_model_file "${asr_exp}/${inference_asr_model:-${checkpoint}}" --output_dir "${asr_exp}/export"
    finish
fi

if runs 12 && ! ${skip_eval}; then
    if [ -n "${download_model}" ]; then
        ${bin}.fetch_model --model "${download_model}" --output_dir "${asr_exp}/export"
    fi
    [ -f "${asr_exp}/export/model.pth" ] || [ -f "${teacher_exp}/.done.stage6" ] || [ -f "${teacher_model[1]}" ] \
        || refuse "there is no model to decode with: neither ${asr_exp}/export (stages 10 and 11) nor ${teacher_exp} (stage 6)"
    for set in ${test_sets}; do
        needs "${data}/org/${set}/wav.scp" 3
        for model in "${asr_exp}" "${teacher_exp}"; do
            dir=${model}/${inference_tag}/${set}
            if [ "${model}" = "${teacher_exp}" ] && ! teacher_is_asr; then
                [ -f "${teacher_exp}/.done.stage6" ] || continue # it was not taken
                begin 12 "${dir}" "$(cat "${teacher_exp}/.done.stage6") ${local_data_opts}" || continue
                log "Stage 12: Decode ${set} with the teacher ${teacher} -> ${dir}"
                ${decode_cmd} "${dir}/decode.log" ${bin}.dump_teacher "${teacher_opts[@]}" \
                    --wav_scp "${data}/org/${set}/wav.scp" --output_dir "${cache}/${set}" \
                    --max_bad_share 100 --top_k "${teacher_top_k}" ${teacher_dump_args}
                ${bin}.prove_teacher --cache "${cache}/${set}" --text "${data}/org/${set}/text" \
                    --output_dir "${dir}" $(token_opts) ${score_opts}
                finish
                continue
            fi
            weights=("${asr_exp}/export/config.yaml" "${asr_exp}/export/model.pth")
            [ "${model}" = "${asr_exp}" ] || weights=("${teacher_model[@]}")
            [ -f "${weights[1]}" ] || continue
            [ -z "${lm}" ] || tune "${model}/${inference_tag}" "${weights[@]}"
            searched=${inference_config}
            [ -z "${lm}" ] || searched=${model}/${inference_tag}/decode.yaml
            begin 12 "${dir}" "${inference_args} ${local_data_opts} $(cat "${weights[1]}" ${searched} | cksum)" || continue
            log "Stage 12: Decode ${set} with ${model} -> ${dir}"
            decode "${set}" "${data}/org/${set}/wav.scp" "${dir}" "${weights[@]}"
            finish
        done
    done
fi

if runs 13 && ! ${skip_eval}; then
    log "Stage 13: Score -> ${expdir}/RESULTS.md"
    for set in ${test_sets}; do
        for model in "${asr_exp}" "${teacher_exp}"; do
            dir=${model}/${inference_tag}/${set}
            [ -f "${dir}/text" ] || continue
            begin 13 "${dir}" "2 ${score_opts} $(cat "${data}/org/${set}/text" "${dir}/text" | cksum)" >/dev/null || continue
            bpe=()
            [ ! -f "${token_dir}/bpe.model" ] || bpe=(--bpemodel "${token_dir}/bpe.model")
            echo "${dir}:"
            ${bin}.score --ref "${data}/org/${set}/text" --hyp "${dir}/text" "${bpe[@]}" \
                --utt2spk "${data}/org/${set}/utt2spk" ${score_opts}
            finish
        done
    done
    ${bin}.results --expdir "${expdir}" --command "$0 ${run_args[*]}"
fi

if runs 14 && ! ${skip_eval}; then
    log "Stage 14: Report -> ${expdir}/report.html"
    ${bin}.results --expdir "${expdir}" --table
    known=()
    if [ -d "${teacher_exp}" ]; then
        known=(--teacher "${teacher_exp}")
        # A cache may have been deleted since.
        ! compgen -G "${cache}/*/meta.json" >/dev/null || known+=(--teacher_cache "${cache}")
    fi
    ${bin}.report "${expdir}" --data "${data}/org" "${known[@]}" \
        --title "$(basename "$(dirname "${PWD}")")" 2>"${expdir}/.report.log" ||
        { tail -n 5 "${expdir}/.report.log" >&2; exit 1; }
fi

packed=${asr_exp}/packed.zip
if runs 15 && ! ${skip_packing}; then
    log "Stage 15: Pack -> ${packed}"
    report=()
    [ ! -f "${expdir}/RESULTS.md" ] || report=(--results "${expdir}/RESULTS.md")
    [ ! -f "${expdir}/report.html" ] || report+=(--report "${expdir}/report.html")
    ${bin}.pack --experiment "${asr_exp}" --output "${packed}" "${report[@]}" ${pack_args}
fi

if runs 16 && ! ${skip_upload_hf}; then
    [ -n "${hf_repo}" ] || refuse "--hf_repo is missing, e.g. me/student"
    [ -f "${packed}" ] || refuse "there is no ${packed}: run stage 15 with --skip_packing false"
    log "Stage 16: Upload ${packed} to Hugging Face: ${hf_repo}"
    ${bin}.upload_hf --packed "${packed}" --repo "${hf_repo}"
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
