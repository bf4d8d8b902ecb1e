#!/usr/bin/env bash
# Trains on any cloud as a managed SkyPilot job (pip install "skypilot[gcp]").
#
#   launch/skypilot.sh --name=editor --bucket=gs://my-bucket --gpus=H100:8 \
#     --workdir=/runs/multi
#
#   --name=NAME       of the job
#   --bucket=URL      gs://... or s3://..., mounted at /runs
#   --workdir=DIR     folder of the run, below /runs
#   --config=FILE     configs/multi.py; --config.KEY=VALUE overrides
#   --gpus=H100:8     accelerators of a machine, from `sky show-gpus`
#   --spot=yes        a cheaper machine that may be taken away (or no)
#   --dry-run         print the command and run nothing
#
# One machine: a bucket is no file system for several hosts to write one
# checkpoint to. A job whose machine is taken away is started again elsewhere by
# SkyPilot and continues; so does the same command, given again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/arguments.sh

name='' bucket='' gpus=H100:8 spot=yes
parse "name bucket gpus spot" "$@"
named name
if [[ ! $bucket =~ ^(gs|s3|r2|cos|nebius)://. ]]; then
  fail "--bucket=$bucket: a bucket of your own, gs://NAME or s3://NAME."
fi
if [[ ! $gpus =~ ^[A-Za-z0-9-]+(:[1-9][0-9]*)?$ ]]; then
  fail "--gpus=$gpus: looks like H100:8 or tpu-v5litepod-8."
fi
if [[ $workdir != /runs/* ]]; then
  fail "--workdir=$workdir: must be below /runs, where the bucket is mounted."
fi
case $spot in
  yes) spot=--use-spot ;;
  no) spot=--no-use-spot ;;
  *) fail "--spot=$spot: yes or no." ;;
esac

# skypilot.yaml says how a machine is set up; the command and the bucket are
# its variables.
run sky jobs launch launch/skypilot.yaml "--name=$name" "--gpus=$gpus" \
  "$spot" --env "BUCKET=$bucket" \
  --env "TRAINING=$(training .venv/bin/python)" --yes --detach-run
