#!/usr/bin/env bash
# CMU AN4 -> data/{train,train_half,train_withheld,valid,test}/{wav.scp,text,utt2spk,spk2utt}
set -euo pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
SECONDS=0

# shellcheck disable=SC2034  # shown by utils/parse_options.sh
help_message=$(cat <<'EOF'
Usage: local/data.sh [--an4 <folder>] [--download_dir downloads] [--dev_speakers 8]

Options:
    --an4           # AN4's folder of .wav or .sph files, or the one that holds an4/.
                    # Default: AN4 of db.sh; where that is `downloads`, it is downloaded.
    --download_dir  # Where a download is put (default="downloads").
    --dev_speakers  # Training speakers held out as valid (default="8").
    --stage         # 1: find or download the corpus, 2: prepare (default="1").
    --stop_stage    # (default="2").
EOF
)

stage=1
stop_stage=2
an4=
download_dir=downloads
dev_speakers=8

# shellcheck disable=SC1091
. utils/parse_options.sh
# shellcheck disable=SC1091
. ./db.sh

if [ $# -ne 0 ]; then
    log "${help_message}"
    log "Error: No positional arguments are required."
    exit 2
fi

if [ -z "${an4}" ] && [ "${AN4:-downloads}" != downloads ]; then
    an4="${AN4}"
fi
opts=(--download_dir "${download_dir}" --dev_speakers "${dev_speakers}")
if [ -n "${an4}" ]; then
    opts+=(--an4 "${an4}")
fi

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    log "Stage 1: Find or download AN4"
    python3 local/prepare_an4.py "${opts[@]}" --fetch_only
fi

if [ "${stage}" -le 2 ] && [ "${stop_stage}" -ge 2 ]; then
    log "Stage 2: Prepare the sets below data"
    python3 local/prepare_an4.py "${opts[@]}"
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
