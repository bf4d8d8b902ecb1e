#!/usr/bin/env bash
# Trains on a SLURM cluster of GPU nodes, one process a GPU.
#
#   launch/slurm.sh --workdir=/shared/runs/multi --nodes=2 --gpus=8 \
#     --config.batch_size=16
#
#   --workdir=DIR     folder of the run, seen by all nodes
#   --config=FILE     configs/multi.py; --config.KEY=VALUE overrides
#   --nodes=1         machines
#   --gpus=8          GPUs of each
#   --cpus=8          processor cores for each GPU
#   --time=24:00:00   longest run; asked to stop two minutes before
#   --partition=NAME, --account=NAME   where your cluster wants them
#   --python=FILE     interpreter, seen by all nodes (.venv/bin/python)
#   --dry-run         print the command and run nothing
#
# The same command continues the run; given twice, the second job waits for the
# first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/arguments.sh

nodes=1 gpus=8 cpus=8 time=24:00:00 partition='' account=''
python=$PWD/.venv/bin/python
parse "nodes gpus cpus time partition account python" "$@"
for name in nodes gpus cpus; do number "$name"; done
if [[ ! $time =~ ^([0-9]+-)?[0-9]+(:[0-9]{2}){0,2}$ ]]; then
  fail "--time=$time: SLURM reads MINUTES, HOURS:MM:SS or DAYS-HH:MM:SS."
fi
if [[ $workdir != /* ]]; then workdir=$PWD/$workdir; fi

if [[ -z $dry_run && ! -x $python ]]; then
  fail "--python=$python: no such interpreter; make it with" \
    "python3 -m venv .venv && .venv/bin/pip install -r requirements-cuda.txt"
fi

# One job of this folder at a time: later ones wait for it.
options=("--job-name=instructedit:$workdir" --dependency=singleton)
# One process a GPU, each with its own processor cores.
options+=("--nodes=$nodes" "--ntasks-per-node=$gpus" "--gpus-per-node=$gpus")
options+=("--cpus-per-task=$cpus")
# Before the time is over the processes get SIGTERM and write a checkpoint.
options+=("--time=$time" --signal=TERM@120)
# A job whose node failed is started again and adds to the same log.
options+=(--requeue --open-mode=append)
options+=("--chdir=$PWD" "--output=$workdir/slurm.log")
if [[ -n $partition ]]; then options+=("--partition=$partition"); fi
if [[ -n $account ]]; then options+=("--account=$account"); fi

# SLURM opens the log before anything could make its folder.
run mkdir -p "$workdir"
# srun does not take over sbatch's --cpus-per-task (since SLURM 22.05); one
# process that ends badly ends all, for the others could only wait for it.
run sbatch "${options[@]}" "--wrap=srun --kill-on-bad-exit=1\
 --cpus-per-task=$cpus $(training "$python")"
