#!/usr/bin/env bash
# Trains a small editor on a laptop's CPU, evaluates it and says where it is.
#
#   launch/quickstart.sh [--config.key=value ...]     passed on to training
#   WORKDIR=runs/mine launch/quickstart.sh            results elsewhere
#
# Safe to run twice: the environment is kept, and a finished or interrupted
# training continues from its last checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

WORKDIR=${WORKDIR:-runs/quickstart}

make_environment
install_once base requirements.txt

run "$python" -m instructedit_jax.train \
  --config=configs/quickstart.py --workdir="$WORKDIR" "$@"
run "$python" -m instructedit_jax.evaluate \
  --config=configs/quickstart.py --editor="$WORKDIR" \
  --out="$WORKDIR/evaluation"

cat <<END

Done. In $WORKDIR:
  metrics.jsonl, tensorboard/   the numbers of the training
  evaluation/                   the results, per record and in summary
END
