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
  --editor="base,$WORKDIR" --tasks=counterfact,wikirecent,convsent,zsre \
  --limit=40 --queries=bare --free_limit=10 --fluency_limit=4 \
  --out="$WORKDIR/evaluation"

cat <<END

Done. In $WORKDIR:
  editor/                       the editor; give its folder to the commands
                                instructedit_jax.edit and .evaluate
  curves.png, metrics.jsonl     how training went
  evaluation/table.md           how well edits work, and figure.png
  evaluation/records.jsonl      every question, before and after
Try:
  $python -m instructedit_jax.edit --editor=$WORKDIR \\
    --prompt "The capital of France is" --target "Lyon" \\
    --ask "Which city is the capital of France?"
END
