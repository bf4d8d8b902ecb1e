"""Two real processes on this machine: the same run as one, and its accidents.

What they exchange goes through gloo on localhost.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from instructedit_jax.editors.trained import load_editor
from instructedit_jax.errors import UserError
from instructedit_jax.metric_writer import read_metrics
from instructedit_jax.parallel import processes

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 900  # generous: a busy machine compiles slowly
_STARTED: list[subprocess.Popen[bytes]] = []

CONFIG = """
from instructedit_jax.training.config import default

def get_config(arg=""):
  config = default()
  config.model = "random:tiny-llama"
  config.suffix = 2
  config.tasks = {"counterfact": 1.0}
  config.steps = 4
  config.batch_size = 4
  config.validation_records = 4
  config.validate_every = 2
  config.checkpoint_every = 2
  config.log_every = 1
  config.editor.method = "mend"
  config.editor.rounds = 1
  config.editor.ridge = 0.0
  config.editor.network.rank = 8
  config.shape.edit_tokens, config.shape.edit_rows = 640, 12
  config.shape.query_tokens = 512
  config.shape.keep_positions, config.shape.edit_positions = 9, 18
  config.episode.target_tokens, config.episode.locality_tokens = 6, 3
  return config
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp("processes")
  (folder / "tiny.py").write_text(CONFIG)
  return folder


@pytest.fixture(autouse=True)
def started():
  """The processes of a test; none outlives it."""
  _STARTED.clear()
  yield
  for child in _STARTED:
    child.kill()
    child.wait()


def _start(place, workdir, count=1, index=0, port=0, *options, devices=1):
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": str(devices),
    "INSTRUCTEDIT_HEARTBEAT_SECONDS": "20",
  }
  if count > 1:
    environment |= {
      "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
      "JAX_NUM_PROCESSES": str(count),
      "JAX_PROCESS_ID": str(index),
    }
  with open(place / f"{workdir}-{index}.log", "w") as log:
    child = subprocess.Popen(
      [
        *(sys.executable, "-m", "instructedit_jax.train"),
        f"--config={place / 'tiny.py'}",
        f"--workdir={place / workdir}",
        *options,
      ],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=log,
    )
  _STARTED.append(child)
  return child


def _two(place, workdir, *options):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  return [_start(place, workdir, 2, i, port, *options) for i in range(2)]


def _log(place, workdir, index=0):
  return (place / f"{workdir}-{index}.log").read_text()


def _until(place, workdir, children, steps):
  """Waits until a run has taken some steps."""
  metrics = place / workdir / "checkpoints" / str(steps)
  deadline = time.monotonic() + SECONDS
  while not metrics.is_dir():
    for index, child in enumerate(children):
      assert child.poll() is None, _log(place, workdir, index)
    assert time.monotonic() < deadline
    time.sleep(0.2)


@pytest.fixture(scope="module")
def alone(place):
  child = _start(place, "alone")
  assert child.wait(SECONDS) == 0, _log(place, "alone")
  return load_editor(place / "alone")


def _require_equal(place, workdir, alone):
  """The gradients' sums are ordered otherwise, and Adam takes their signs."""
  ours = load_editor(place / workdir)
  assert jax.tree.structure(ours.params) == jax.tree.structure(alone.params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5),
    (ours.params, ours.statistics),
    (alone.params, alone.statistics),
  )
  rows = [
    [row for row in read_metrics(place / name / "metrics.jsonl")]
    for name in (workdir, "alone")
  ]
  for mine, other in zip(*rows, strict=True):
    assert mine.keys() == other.keys()
    for name in mine:
      np.testing.assert_allclose(
        mine[name], other[name], rtol=2e-3, atol=1e-5, err_msg=name
      )


def test_two_processes_train_what_one_trains(place, alone, monkeypatch):
  """Twice: the second time there may be compiled programs of the first."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
  warm = _two(place, "warm")
  assert [child.wait(SECONDS) for child in warm] == [0, 0]
  children = _two(place, "both")
  assert [child.wait(SECONDS) for child in children] == [0, 0], _log(
    place, "both", 1
  )
  _require_equal(place, "both", alone)
  assert "editor written" not in _log(place, "both", 1)


def test_a_run_divided_among_four_devices_is_the_same(place, alone):
  """Also the prefix, which a thread computes on the same devices meanwhile."""
  options = ("--config.mesh.model=2", "--config.sharding.fsdp=True")
  child = _start(place, "divided", 1, 0, 0, *options, devices=4)
  assert child.wait(SECONDS) == 0, _log(place, "divided")
  _require_equal(place, "divided", alone)


@pytest.mark.parametrize(("victim", "devices"), [(1, 1), (0, 4)])
def test_a_lost_process_ends_the_other_and_the_run_goes_on(
  place, victim, devices
):
  """Two devices before; after the loss fewer, or more."""
  name = f"killed-{victim}"
  children = _two(place, name, "--config.steps=100000")
  _until(place, name, children, 2)
  children[victim].send_signal(signal.SIGKILL)
  children[victim].wait()
  left = 1 - victim
  assert children[left].wait(120) != 0
  said = _log(place, name, left)
  assert re.search("process .*lost|another task died", said)
  assert "Traceback" not in said
  folder = place / name / "checkpoints"
  latest = max(int(p.name) for p in folder.iterdir() if p.name.isdigit())
  assert latest >= 2
  options = (f"--config.steps={latest + 2}",)
  child = _start(place, name, 1, 0, 0, *options, devices=devices)
  assert child.wait(SECONDS) == 0, _log(place, name)
  assert f"going on from step {latest}" in _log(place, name)
  steps = [
    row["step"]
    for row in read_metrics(place / name / "metrics.jsonl")
    if "train/loss" in row
  ]
  assert steps == list(range(1, latest + 3))  # none left out, none twice
  assert load_editor(place / name).details["step"] <= latest + 2


def test_a_signal_to_one_stops_both_at_the_same_step(place):
  children = _two(place, "signal", "--config.steps=100000")
  _until(place, "signal", children, 2)
  children[1].send_signal(signal.SIGTERM)
  assert [child.wait(SECONDS) for child in children] == [2, 2]
  steps = [
    re.search(r"error: stopped by request after step (\d+)", log)
    for log in (_log(place, "signal", i) for i in (0, 1))
  ]
  assert steps[0] is not None, _log(place, "signal")
  assert steps[1] is not None, _log(place, "signal", 1)
  assert steps[0][1] == steps[1][1]
  assert (place / "signal" / "checkpoints" / steps[0][1]).is_dir()


def test_a_process_that_meets_no_other_says_so(place, monkeypatch):
  monkeypatch.setenv("INSTRUCTEDIT_START_SECONDS", "3")
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  children = [_start(place, f"lonely-{i}", 2, i, port + i) for i in (0, 1)]
  assert [child.wait(SECONDS) for child in children] == [2, 2]
  for index in (0, 1):
    (line,) = _log(place, f"lonely-{index}", index).splitlines()
    assert line.startswith("error: the processes of this run have not all met")
    assert f"localhost:{port + index} within 3 s" in line
  monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "somewhere")
  with pytest.raises(UserError, match="=somewhere: looks like HOST:PORT"):
    processes.start()


def test_what_the_environment_says(monkeypatch):
  names = (
    "JAX_NUM_PROCESSES OMPI_COMM_WORLD_SIZE SLURM_STEP_NUM_TASKS"
    " TPU_WORKER_HOSTNAMES MEGASCALE_NUM_SLICES JAX_COORDINATOR_ADDRESS"
  )
  for name in names.split():
    monkeypatch.delenv(name, raising=False)
  assert not processes._several()
  for name, value in {
    "JAX_NUM_PROCESSES": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "TPU_WORKER_HOSTNAMES": "a,b",
  }.items():
    with monkeypatch.context() as patch:
      patch.setenv(name, value)
      assert processes._several()
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
  monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
  assert not processes._several()
  assert not processes.start(None)
  monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
  with pytest.raises(UserError, match="JAX_NUM_PROCESSES='two': not a number"):
    processes.start(None)
