# shellcheck shell=bash disable=SC2034
# Where the corpus is. `downloads`: it is not here yet, and local/data.sh fetches it.
# Otherwise the folder that holds LibriSpeech/, or that folder itself.
LIBRISPEECH=downloads
