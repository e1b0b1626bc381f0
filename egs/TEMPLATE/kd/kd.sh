#!/usr/bin/env bash
# Distil a CTC teacher into a small CTC student with ESPnet, from data to results. The
# stages are those of stages/table.sh, each in a file beside it.
# shellcheck disable=SC2034  # options and names are for the stages

set -euo pipefail
SECONDS=0

kd=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=stages/table.sh
. "${kd}/stages/table.sh"
for file in stage training decoding; do
    # shellcheck source=/dev/null
    . "${kd}/utils/${file}.sh"
done
for function in "${stage_functions[@]}"; do
    # shellcheck source=/dev/null
    . "${kd}/stages/${function}.sh"
done

# General
stage=0
stop_stage=${last_stage}
skip_data_prep=false
skip_teacher=false
skip_train=false
skip_eval=false
skip_packing=true
skip_upload_hf=true
ngpu=1
nj=4
inference_nj=1
gpu_inference=false
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
asr_config=
asr_args=
pretrained_model=
feats_normalize=global_mvn

# Decoding
inference_tag=
inference_config=
inference_args=
lm=
lexicon=
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
$(list_stages)
A finished stage is not done again; what it would need for that is said.

General
    --stage, --stop_stage   # First and last stage (default="${stage}", "${stop_stage}").
    --skip_data_prep        # Skip $(stages_of data_prep) (default="${skip_data_prep}").
    --skip_teacher          # Skip $(stages_of teacher) (default="${skip_teacher}").
    --skip_train            # Skip $(stages_of train); with --skip_teacher also what only
                            # a training needs (default="${skip_train}").
    --skip_eval             # Skip $(stages_of eval) (default="${skip_eval}").
    --skip_packing          # Skip $(stages_of packing) (default="${skip_packing}").
    --skip_upload_hf        # Skip $(stages_of upload_hf) (default="${skip_upload_hf}").
    --ngpu                  # GPUs; 0 computes on the CPU (default="${ngpu}").
    --nj                    # Parallel jobs of data preparation (default="${nj}").
    --inference_nj          # Parallel jobs of decoding (default="${inference_nj}").
    --gpu_inference         # Decode on a GPU (default="${gpu_inference}").
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
    --teacher_num_threads   # CPU threads of its training (default:
                            # OMP_NUM_THREADS, like every other training).
Student
    --asr_config            # Training configuration.
    --asr_args              # Further flags of asr_train (default="${asr_args}").
    --asr_tag               # Name of the experiment (default: from its configuration).
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

# Options that cannot be.
one_of() { # <option> <values> ...
    local value
    for value in "${@:2}"; do
        if [ "${!1}" = "${value}" ]; then
            return
        fi
    done
    refuse "unknown --$1 '${!1}'; choose $(printf '%s, ' "${@:2}" | sed 's/, \([^,]*\), $/ or \1/')"
}

for name in stage stop_stage; do
    is_stage "${!name}" || refuse "there is no --${name} ${!name}; give one from 0 to ${last_stage}"
done
for name in ngpu nj inference_nj nbpe fs teacher_top_k; do
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
one_of inference_tool ctckd stream espnet
one_of feats_normalize global_mvn utterance_mvn
one_of teacher_type espnet huggingface torchaudio python ensemble
if [ "${teacher_type}" != espnet ] && [ -z "${teacher}" ]; then
    refuse "a teacher of the type ${teacher_type} needs --teacher"
fi
if [ -n "${lm}" ] && [ "${inference_tool}" != ctckd ]; then
    refuse "--lm is for --inference_tool ctckd"
fi
if [ -n "${teacher}" ]; then
    teacher_config=
fi
if [ -n "${download_model}" ]; then
    skip_train=true
    [ -n "${teacher}${teacher_config}" ] || skip_teacher=true
elif [ -z "${teacher}${teacher_config}" ]; then
    refuse "give --teacher or --teacher_config"
fi

# Commands, and strings of flags as arrays.
python_cmd=() student_flags=() teacher_options=()
words python_cmd "${python}"
module=("${python_cmd[@]}" -m)
words train_jobs "${train_cmd}"
words cuda_jobs "${cuda_cmd}"
words decode_jobs "${decode_cmd}"
words tests "${test_sets}"
words data_flags "${local_data_opts}"
words student_flags "${asr_args}"
words teacher_options "${teacher_conf}"
words dump_flags "${teacher_dump_args}"
words inference_flags "${inference_args}"
words score_flags "${score_opts}"
search_grid=(--lm_scales 0.125 0.25 0.5 1 --word_scores -1 0 1 2)
filter_flags=(--fs "${fs}" --min_wav_duration "${min_wav_duration}"
    --max_wav_duration "${max_wav_duration}" --max_bad_share "${max_bad_share}")
teacher_nj=${teacher_nj:-${nj}}
teacher_num_threads=${teacher_num_threads:-${OMP_NUM_THREADS}}
logs=${expdir}/log

# What this student reads, by its configuration; decoding does not need to know.
described=
declare -A reads=([text]=false [teacher]=false [online]=false [states]=false [nbest]=0
    [loss]='' [frontend]='' [normalize]=default)
if [ "${stage}" -lt "$(number_of decode_sets)" ] && [ -z "${download_model}" ]; then
    described=$(describe "${asr_config}" "${student_flags[@]}")
    read_into reads "${described}"
fi
learns_from_cache() { [ "${reads[teacher]}" = true ] || [ "${reads[nbest]}" -gt 0 ]; }

if [ -n "${unlabeled_set}" ] && [ "${reads[text]}" = true ]; then
    refuse "--unlabeled_set has no transcripts, but ${asr_config} reads them: set kd.weight to 1, and nothing in kd that needs labels"
fi

# Data sets.
labeled=${train_set}${speed_perturb_factors:+_sp}
train=${labeled}${unlabeled_set:+_unlabeled}
needs_train=true
sets=("${labeled}" "${valid_set}")
skip_training=false
if ${skip_train} && ${skip_teacher}; then
    needs_train=false
    sets=("${valid_set}")
    skip_training=true
    unlabeled_set= # nobody learns from it
fi
data=${dumpdir}/${feats_type}
unlabeled_audio=
find_unlabeled() { # a folder of audio becomes a data folder
    if [ -d "${unlabeled_set}" ] && [ -z "${unlabeled_audio}" ]; then
        unlabeled_audio=${unlabeled_set}
        unlabeled_set=unlabeled
    fi
}
find_unlabeled

# Teacher, tokens and cache.
names() { tr -s " {}$1" '_'; } # make a name of flags
if [ -n "${teacher}" ]; then
    teacher_tag=${teacher_tag:-$(basename "${teacher}" | tr ':' '_')}
    token_dir=${expdir}/teacher_${teacher_tag}/tokens
    token_stage=$(number_of get_teacher)
else
    teacher_tag=${teacher_tag:-$(basename "${teacher_config}" .yaml)_${token_type}}
    token_dir=data/token_list/${train_set}_${token_type}
    [ "${token_type}" != bpe ] || token_dir+=_${bpemode}${nbpe}
    token_stage=$(number_of make_tokens)
fi
token_list=${token_dir}/tokens.txt
teacher_exp=${expdir}/teacher_${teacher_tag}
if [ -n "${teacher}" ]; then
    teacher_model=("${teacher_exp}/config.yaml" "${teacher_exp}/model.pth")
else
    teacher_model=("${teacher_exp}/export/config.yaml" "${teacher_exp}/export/model.pth")
fi
if [ "${teacher_type}" = espnet ]; then
    teacher_flags=(--teacher_config "${teacher_model[0]}" --teacher_model "${teacher_model[1]}")
else
    teacher_flags=(--teacher_type "${teacher_type}" --teacher "${teacher}")
fi
for option in "${teacher_options[@]}"; do
    teacher_flags+=(--teacher_conf "${option}")
done
cache=${dumpdir}/teacher/${teacher_tag}
if [ "${teacher_top_k}" -gt 0 ]; then
    cache+=_top${teacher_top_k}
fi
if [ -n "${teacher_dump_args}" ]; then
    cache+=$(names ":,\"'/-" <<<"${teacher_dump_args}")
fi
if [ "${reads[states]}" = true ]; then
    cache+=_states
fi

# The student. What can be trained on depends on its frames, its tokens and its cache.
if [ -z "${asr_tag}" ]; then
    asr_tag=$(basename "${asr_config}" .yaml)_${lang}_$(basename "${token_dir}")
    if [ -n "${asr_args}" ]; then
        asr_tag+=$(names "=:,\"'/." <<<"${asr_args/--/}")
    fi
    asr_tag+=${speed_perturb_factors:+_sp}
fi
asr_exp=${expdir}/asr_${asr_tag}
if [ -n "${download_model}" ]; then
    asr_exp=${expdir}/$(basename "${download_model}")
fi
packed=${asr_exp}/packed.zip
fit="$(grep -e "^shift=" -e "^shortest=" -e "^text=" <<<"${described}" || true) ${token_dir}"
student_cache=
if learns_from_cache; then
    student_cache=${cache}
    fit+=" ${cache}"
fi
fit=fit/$(cksum <<<"${fit}" | cut -d' ' -f1)
stats=${expdir}/asr_stats_${feats_type}_${train}_${reads[frontend]}_${fit#fit/}
fit_student() {
    fit_data "${fit}" "${student_cache}" "${asr_config}" "${train}" "${student_flags[@]}"
}

# Decoding.
if [ -n "${lm}" ]; then
    inference_tag=${inference_tag:-decode_$(basename "${lm}" | sed 's/\.gz$//; s/\.arpa$//; s/\.bin$//')}
fi
inference_tag=${inference_tag:-decode_${inference_tool}${inference_config:+_$(basename "${inference_config}" .yaml)}}
needs_lm=false
if [ -n "${lm}" ] && [ "${stop_stage}" -ge "$(number_of decode_sets)" ] && [ "${skip_eval}" = false ]; then
    needs_lm=true
fi
if [ -e "${lm}" ]; then
    check_lm
elif ${needs_lm} && { [ "${stage}" -gt "$(number_of prepare_data)" ] || ${skip_data_prep}; }; then
    check_lm # no stage will make it
fi

for ((current = stage; current <= stop_stage; current++)); do
    skip=skip_${stage_groups[current]}
    if [ "${!skip}" = false ]; then
        "${stage_functions[current]}"
    fi
done

log "Successfully finished. [elapsed=${SECONDS}s]"
