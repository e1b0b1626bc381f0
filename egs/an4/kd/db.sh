# shellcheck shell=bash disable=SC2034
# Where the corpus is. `downloads`: it is not here yet, and local/data.sh fetches it.
# Otherwise the folder that holds an4/, or that folder itself (.wav or .sph files).
AN4=downloads
