#!/usr/bin/env bash
# Trains a small editor on a laptop's CPU, evaluates it and says where it is.
#
#   launch/quickstart.sh
#
#   --workdir=DIR       results go there (runs/quickstart)
#   --config.KEY=VALUE  passed on to training, as any other option
#   --dry-run           print the commands and run nothing
#   WORKDIR=DIR         before the command: the same as --workdir=DIR
#   VENV=DIR            the virtual environment (.venv), made if there is none
#
# Safe to run twice: the environment is kept, and a finished or interrupted
# training continues from its last checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

WORKDIR=${WORKDIR:-runs/quickstart}
options "$@"
# The evaluation needs the folder, too.
others=()
for word in ${rest[@]+"${rest[@]}"}; do
  case $word in
    --workdir=*) WORKDIR=${word#*=} ;;
    --workdir) fail "--workdir: write --workdir=DIR." ;;
    *) others+=("$word") ;;
  esac
done

# What is needed, once.
make_environment
install_once base requirements.txt

# The editor, or what is left of its training.
run "$python" -m instructedit_jax.train --config=configs/quickstart.py \
  "--workdir=$WORKDIR" ${others[@]+"${others[@]}"}
# The model without and with it, on records it was not trained on.
run "$python" -m instructedit_jax.evaluate \
  --editor="base,$WORKDIR" --tasks=counterfact,wikirecent,convsent,zsre \
  --limit=40 --queries=bare --free_limit=10 --fluency_limit=4 \
  --out="$WORKDIR/evaluation"

if [[ -n $dry_run ]]; then exit 0; fi
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
