#!/usr/bin/env bash
# Source this to read "--some-option value" into the variable some_option, which
# must have been set (perhaps to nothing) before. "--config file" sources a file of
# assignments first; "--help" prints ${help_message}. Anything unknown is an error.

for ((_arg = 1; _arg < $#; _arg++)); do
    if [ "${!_arg}" = --config ]; then
        _file=$((_arg + 1))
        if [ ! -r "${!_file}" ]; then
            echo "$0: there is no configuration file ${!_file}" >&2
            exit 1
        fi
        # shellcheck disable=SC1090
        . "${!_file}"
    fi
done

while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h)
            printf '%s\n' "${help_message:-No help for $0.}"
            exit 0
            ;;
        --config)
            shift 2
            ;;
        --*=*)
            echo "$0: write the option as --name value, not $1" >&2
            exit 1
            ;;
        --*)
            _name=${1#--}
            _name=${_name//-/_}
            if ! [[ ${_name} =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || [ -z "${!_name+set}" ]; then
                echo "$0: unknown option $1 (see --help)" >&2
                exit 1
            fi
            if [ $# -lt 2 ]; then
                echo "$0: the option $1 needs a value" >&2
                exit 1
            fi
            if [[ ${!_name} == true || ${!_name} == false ]] \
                && [[ $2 != true && $2 != false ]]; then
                echo "$0: the option $1 takes true or false, not '$2'" >&2
                exit 1
            fi
            printf -v "${_name}" '%s' "$2"
            shift 2
            ;;
        *)
            break
            ;;
    esac
done
unset _name _arg _file
