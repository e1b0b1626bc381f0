# shellcheck shell=bash disable=SC2154
write_report() {
    local known=()
    log "Stage 14: Report -> ${expdir}/report.html"
    shown "${logs}/table.log" "${module[@]}" espnet_ctckd.bin.results --expdir "${expdir}" --table
    if [ -d "${teacher_exp}" ]; then
        known=(--teacher "${teacher_exp}")
        if compgen -G "${cache}/*/meta.json" >/dev/null; then # it may have been deleted
            known+=(--teacher_cache "${cache}")
        fi
    fi
    shown "${expdir}/.report.log" "${module[@]}" espnet_ctckd.bin.report "${expdir}" \
        --data "${data}/org" "${known[@]}" --title "$(basename "$(dirname "${PWD}")")"
}
