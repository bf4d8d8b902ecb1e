#!/usr/bin/env bash
# Everything a change must pass: lint, layout, types, tests.
#
#   launch/test.sh [pytest arguments]      e.g. launch/test.sh tests/app_test.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

make_environment
install_once base requirements.txt
install_once test requirements.txt requirements-test.txt

# Waiting threads of PyTorch would otherwise take the cores from JAX.
export OMP_WAIT_POLICY=passive

run "$python" -m ruff check .
run "$python" -m ruff format --check .
run "$python" -m mypy
run "$python" -m pytest -n "${WORKERS:-2}" "$@"
