#!/usr/bin/env bash
# Everything a change must pass: lint, layout, types, tests.
#
#   launch/test.sh
#
#   tests/app_test.py   or other arguments of pytest
#   --dry-run           print the commands and run nothing
#   WORKERS=N           before the command: test processes (2)
#   VENV=DIR            the virtual environment (.venv), made if there is none
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

options "$@"
make_environment
install_once base requirements.txt
install_once test requirements.txt requirements-test.txt

# Waiting threads of PyTorch would otherwise take the cores from JAX.
export OMP_WAIT_POLICY=passive

run "$python" -m ruff check .
run "$python" -m ruff format --check .
run "$python" -m mypy
# Each process begins with a stretch of files of its own: what a file's tests
# share is made once, not once a process.
run "$python" -m pytest -n "${WORKERS:-2}" --dist worksteal ${rest[@]+"${rest[@]}"}
