# shellcheck shell=bash
# Sourced by the cluster scripts beside it: arguments, checks, dry runs.
#
# Callers use `set -euo pipefail`, set their options' defaults as variables
# (--dry-run aside, --max-restarts is max_restarts) and call
#
#   parse "NAME NAME ..." "$@"
#
# `config` and `workdir` belong to all of them, and --config.KEY=VALUE is kept
# for training. Written for the Bash 3.2 of macOS, too.

dry_run=
overrides=()
config=configs/multi.py
workdir=

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# Its own variables start with _, for the options' names are the callers'.
parse() {
  local _known _argument _key
  _known=" config workdir $1 "
  shift
  for _argument in "$@"; do
    case $_argument in
      -h | --help) usage ;;
      --dry-run) dry_run=yes ;;
      --config.*=*) overrides+=("$_argument") ;;
      --*=*)
        _key=${_argument%%=*}
        _key=${_key#--}
        if [[ $_known != *" $_key "* ]]; then
          fail "--$_key is not an option; there are$(listed "$_known")."
        fi
        printf -v "${_key//-/_}" '%s' "${_argument#*=}"
        ;;
      *)
        fail "$_argument: options look like --name=value; there are$(
          listed "$_known"
        )."
        ;;
    esac
  done
  if [[ -z $workdir ]]; then
    fail "--workdir=DIR is missing: where should the run go?"
  fi
  if [[ ! -f ${config%%:*} ]]; then
    fail "--config=$config: no such configuration file."
  fi
}

listed() {
  local name
  for name in $1; do printf ' --%s=' "$name"; done
  printf ' --config.KEY= --dry-run'
}

# Prints the comment at the top of the script.
usage() {
  sed -n '1d; /^#/!q; s/^# \{0,1\}//p' "launch/${0##*/}"
  exit 0
}

# number NAME: the option must be a positive whole number.
number() {
  local variable=${1//-/_}
  if [[ ! ${!variable} =~ ^[1-9][0-9]*$ ]]; then
    fail "--$1=${!variable}: must be a whole number above 0."
  fi
}

# given NAME WHY: the option must not be empty.
given() {
  local variable=${1//-/_}
  if [[ -z ${!variable} ]]; then fail "--$1=... is missing: $2"; fi
}

# named NAME: cloud names are lower case letters, digits and dashes.
named() {
  local variable=${1//-/_}
  if [[ ! ${!variable} =~ ^[a-z]([-a-z0-9]{0,37}[a-z0-9])?$ ]]; then
    fail "--$1=${!variable}: up to 39 lower case letters, digits and dashes," \
      "a letter first."
  fi
}

# The words as one line for a shell, quoted where needed.
quoted() {
  local _word _line='' _quote="'\\''"
  for _word in "$@"; do
    case $_word in
      '' | *[!-A-Za-z0-9_./:=,@%+]*) _word="'${_word//\'/$_quote}'" ;;
    esac
    _line+="${_line:+ }$_word"
  done
  printf '%s' "$_line"
}

# training PYTHON: the training command as one line.
training() {
  quoted "$1" -m instructedit_jax.train "--config=$config" \
    "--workdir=$workdir" --distributed ${overrides[@]+"${overrides[@]}"}
}

# Runs a command, or with --dry-run prints it.
run() {
  if [[ -z $dry_run ]]; then
    "$@"
  else
    printf '%s\n' "$(quoted "$@")"
  fi
}
