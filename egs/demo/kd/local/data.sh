#!/usr/bin/env bash
# Prepares the demo corpus: noisy spoken commands made with eSpeak NG.

set -euo pipefail

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
SECONDS=0

stage=1
stop_stage=2
nj=2
seed=0
audio_dir=downloads/demo
data_dir=data
num_train=1200
num_valid=100
num_test=150
num_unlabeled=300
train_speakers=48
valid_speakers=10
test_speakers=15
unlabeled_speakers=20

# shellcheck disable=SC2034  # read by utils/parse_options.sh
help_message=$(cat <<EOF
Usage: local/data.sh [options]      (run from the recipe folder, e.g. egs/demo/kd)

Makes data/{train,valid,test,unlabeled}; a complete set is left as it is.

Options:
    --stage               # 1: nothing to fetch, 2: make the speech (default="${stage}").
    --stop_stage          # (default="${stop_stage}").
    --nj                  # Number of processes (default="${nj}").
    --seed                # Seed; the same seed gives the same bytes (default="${seed}").
    --audio_dir           # Where the audio goes (default="${audio_dir}").
    --data_dir            # Where the Kaldi data directories go (default="${data_dir}").
    --num_train           # Number of training utterances (default="${num_train}").
    --num_valid           # Number of validation utterances (default="${num_valid}").
    --num_test            # Number of test utterances (default="${num_test}").
    --num_unlabeled       # Number of untranscribed utterances (default="${num_unlabeled}").
    --train_speakers      # Number of training speakers (default="${train_speakers}").
    --valid_speakers      # Number of validation speakers (default="${valid_speakers}").
    --test_speakers       # Number of test speakers (default="${test_speakers}").
    --unlabeled_speakers  # Number of untranscribed speakers (default="${unlabeled_speakers}").
EOF
)

log "$0 $*"
# shellcheck source=/dev/null
. utils/parse_options.sh

if [ $# -ne 0 ]; then
    log "Error: found the positional arguments '$*', expected options only; see $0 --help"
    exit 2
fi

if [ "${stage}" -gt 2 ] || [ "${stop_stage}" -lt 2 ]; then
    exit 0
fi
for subset in train valid test unlabeled; do
    num_utts=num_${subset}
    num_speakers=${subset}_speakers
    python3 local/make_speech.py --subset "${subset}" --num_utts "${!num_utts}" \
        --num_speakers "${!num_speakers}" --audio_dir "${audio_dir}" \
        --data_dir "${data_dir}" --seed "${seed}" --nj "${nj}"
done

log "Successfully finished. [elapsed=${SECONDS}s]"
