#!/usr/bin/env bash
# LibriSpeech -> data/<set>/{wav.scp,text,utt2spk,spk2utt}
set -euo pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
SECONDS=0

# shellcheck disable=SC2034  # shown by utils/parse_options.sh
help_message=$(cat <<'EOF'
Usage: local/data.sh [--librispeech <folder>] [--train_set train_clean_100] ...

Options:
    --librispeech    # LibriSpeech/ or the folder that holds it. Each part is taken from
                     # there, else from LIBRISPEECH of db.sh, else it is downloaded.
    --download_dir   # Where downloads are put (default="downloads").
    --train_set      # train_clean_100, train_clean_460 or train_960
                     # (default: train_clean_100, or none where --parts is given).
    --parts          # Parts wanted beside the training set's, e.g. "dev-clean test-clean"
                     # (default: dev-clean dev-other test-clean test-other).
    --mini           # Run on what is there of train-clean-100 and test-other, however
                     # little: train_mini, dev_mini and test_mini (default="false").
    --unlabeled_set  # Folder of audio files without transcripts -> data/unlabeled.
    --phonemes       # With --mini: transcripts in phonemes (default="false").
    --stage          # 1: find or download the parts, 2: prepare (default="1").
    --stop_stage     # (default="2").
EOF
)

stage=1
stop_stage=2
librispeech=
download_dir=downloads
train_set=
parts=
mini=false
unlabeled_set=
phonemes=false

# shellcheck disable=SC1091
. utils/parse_options.sh
# shellcheck disable=SC1091
. ./db.sh

if [ $# -ne 0 ]; then
    log "${help_message}"
    log "Error: No positional arguments are required."
    exit 2
fi

opts=(--download_dir "${download_dir}")
corpus_dirs=()
if [ -n "${librispeech}" ]; then
    corpus_dirs+=("${librispeech}")
fi
if [ "${LIBRISPEECH:-downloads}" != downloads ]; then
    corpus_dirs+=("${LIBRISPEECH}")
fi
if [ ${#corpus_dirs[@]} -gt 0 ]; then
    opts+=(--corpus_dir "${corpus_dirs[@]}")
fi
if [ -n "${train_set}" ]; then
    opts+=(--train_set "${train_set}")
fi
if [ -n "${parts}" ]; then
    # shellcheck disable=SC2206  # a list of words
    opts+=(--parts ${parts})
fi
if "${mini}"; then
    opts+=(--mini)
fi

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    log "Stage 1: Find or download LibriSpeech"
    python3 local/download_librispeech.py "${opts[@]}"
fi

if [ "${stage}" -le 2 ] && [ "${stop_stage}" -ge 2 ]; then
    log "Stage 2: Prepare the data directories"
    python3 local/prepare_librispeech.py "${opts[@]}"
    if "${phonemes}"; then
        python3 local/phonemes.py data/{train_mini,train_mini_half,dev_mini,test_mini}
    fi
    if [ -n "${unlabeled_set}" ]; then
        python3 utils/prepare_unlabeled.py --audio_dir "${unlabeled_set}" \
            --output_dir data/unlabeled
    fi
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
