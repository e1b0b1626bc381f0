# The stages of kd.sh, one a line: number, function, what skips it, name. The function is
# in the file beside this one that has its name. The help, the check of --stage and the
# phases of utils/students.sh follow from the table.
# shellcheck shell=bash

stage_functions=()
stage_groups=()
stage_names=()
add_stage() { # <number> <function> <group of --skip_group> <name>
    if [ "$1" -ne "${#stage_functions[@]}" ]; then
        echo "${BASH_SOURCE[0]}: got the stage $1, expected ${#stage_functions[@]}: number them one after another" >&2
        exit 1
    fi
    stage_functions+=("$2")
    stage_groups+=("$3")
    stage_names+=("$4")
}

add_stage 0 check_machine data_prep "check the machine, fetch the corpus"
add_stage 1 prepare_data data_prep "data preparation: local/data.sh"
add_stage 2 perturb_speed data_prep "speed perturbation"
add_stage 3 format_audio data_prep "format audio"
add_stage 4 filter_data data_prep "leave out unusable utterances"
add_stage 5 make_tokens training "token list"
add_stage 6 get_teacher teacher "teacher: take or train"
add_stage 7 dump_teacher teacher "teacher inference -> cache"
add_stage 8 check_cache teacher "check cache and teacher"
add_stage 9 collect_stats train "collect statistics"
add_stage 10 train_student train "student training"
add_stage 11 export_student train "export the student as a plain ESPnet model"
add_stage 12 decode_sets eval "decoding"
add_stage 13 score_sets eval "scoring -> RESULTS.md"
add_stage 14 write_report eval "report.html and the table"
add_stage 15 pack_student packing "pack the model"
add_stage 16 upload_student upload_hf "upload to Hugging Face"

last_stage=$((${#stage_functions[@]} - 1))

is_stage() { # <number>
    [[ $1 =~ ^(0|[1-9][0-9]?)$ ]] && [ "$1" -le "${last_stage}" ]
}

number_of() { # <function>
    local number
    for number in "${!stage_functions[@]}"; do
        if [ "${stage_functions[number]}" = "$1" ]; then
            echo "${number}"
            return
        fi
    done
    echo "${BASH_SOURCE[0]}: there is no stage $1" >&2
    return 1
}

stages_of() { # <group>: the numbers that --skip_<group> skips, for the help
    local number found=()
    for number in "${!stage_groups[@]}"; do
        if [ "${stage_groups[number]}" = "$1" ]; then
            found+=("${number}")
        fi
    done
    if [ "${#found[@]}" -eq 1 ]; then
        echo "stage ${found[0]}"
    else
        echo "stages ${found[0]}-${found[-1]}"
    fi
}

list_stages() { # for the help
    local number
    for number in "${!stage_names[@]}"; do
        printf '    %2d  %s\n' "${number}" "${stage_names[number]}"
    done
}
