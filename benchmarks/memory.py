"""Peak memory of training, each side in a process of its own.

  python -m benchmarks.training --what=memory --out=memory.json

A process loads the base model and takes a few training steps; its peak is what
the kernel counts (VmHWM), less what importing the other side's libraries added.
PyTorch finds model, editor and tokens on disk. Ours compiles in the process and
keeps the prefix states of its few batches: a run may keep up to
config.prefix_cache_gb more.
"""

import importlib
import json
import pathlib
import pickle
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from benchmarks.process import status

_CHILD = flags.DEFINE_string("child", None, "Internal: what to run, JSON.")
_STEPS = 3
_GIB = 2**30


def measure(model: Any, tasks: Sequence[str]) -> list[Any]:
  """Rows, GiB; `model` is the base model, loaded."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    _prepare(model, tasks, folder)
    peaks = {kind: _run(kind, tasks, folder) for kind in _KINDS}
  return _rows(peaks)


def _rows(peaks: dict[str, dict[str, float]]) -> list[Any]:
  from benchmarks import options, rows

  found = []
  for title, ours, peer in (
    ("default editor", "ours", "released"),
    ("default editor", "ours", "batched"),
    ("published editor", "ours same", "released"),
    ("ConvSent, default editor", "ours convsent", "released convsent"),
  ):
    found.append(
      rows.latency(
        f"memory of training, {title}, vs {peer.split()[0]}",
        peaks[ours]["peak"] / _GIB,
        peaks[peer]["peak"] / _GIB,
        "GiB",
        batch=options.BATCH.value,
        ours_bytes=peaks[ours],
        peer_bytes=peaks[peer],
      )
    )
  return found


def _prepare(model: Any, tasks: Sequence[str], folder: pathlib.Path) -> None:
  """Writes what PyTorch's processes need."""
  import jax
  import numpy as np

  from benchmarks import steps
  from instructedit_jax.models.language_model import save_hf

  def write(name: str, value: Any) -> None:
    (folder / f"{name}.pickle").write_bytes(pickle.dumps(value))

  def plain(state: Any) -> dict[str, Any]:
    tree = {"params": state.params, "statistics": state.statistics}
    return jax.tree.map(np.asarray, tree)

  save_hf(model, folder / "model")
  for name, wanted in (
    ("released", list(tasks)),
    ("released convsent", ["convsent"]),
  ):
    side = steps.Released(model, wanted)
    write(name, (model.config, side.config, plain(side.state), side.texts))
  config = steps.variants(tasks, _STEPS)[steps.DEFAULT]
  ours = steps.Ours(model, config)
  given = steps.torch_steps(ours)
  write("batched", (model.config, config, plain(ours.state), given))


def _run(
  kind: str, tasks: Sequence[str], folder: pathlib.Path
) -> dict[str, float]:
  from benchmarks import options
  from instructedit_jax.errors import UserError

  command = [sys.executable, "-m", "benchmarks.memory"]
  command.append(f"--child={json.dumps([kind, str(folder)])}")
  for flag in (
    options.MODEL,
    options.SUFFIX,
    options.DATA,
    options.RANK,
    options.BATCH,
    options.WORDS,
  ):
    command.append(f"--{flag.name}={flag.value}")
  command.append(f"--tasks={','.join(tasks)}")
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    last = (done.stderr.strip() or "no message").splitlines()[-1]
    raise UserError(f"{kind}: its process ended with {last}")
  return json.loads(done.stdout.strip().splitlines()[-1])


def _ours(kind: str) -> Callable[[], Any]:
  from benchmarks import conversations, options, steps
  from instructedit_jax.editors.metalearned import EditorConfig
  from instructedit_jax.models.language_model import load_model

  model = load_model(options.MODEL.value, suffix=options.SUFFIX.value)
  tasks = options.tasks()
  if kind == "ours convsent":
    config = steps.run_config(EditorConfig(), 40, ["convsent"], 1)
    shape = conversations.whole_shape(steps.Released(model, ["convsent"]))
    return conversations.whole_step(model, config, shape)
  runs = steps.variants(tasks, _STEPS)
  name = steps.SAME if kind == "ours same" else steps.DEFAULT
  return steps.Ours(model, runs[name]).cached


def _theirs(kind: str, folder: pathlib.Path) -> Callable[[], Any]:
  from benchmarks.peer import language_model
  from benchmarks.peer.batched import Batched
  from benchmarks.peer.published import Published

  text = (folder / f"{kind}.pickle").read_bytes()
  shape, config, tree, inputs = pickle.loads(text)
  del text
  peer = language_model.read(folder / "model", shape)
  state: Any = types.SimpleNamespace(**tree)
  editor: Any
  if kind == "batched":
    editor = Batched(
      peer,
      config.editor,
      state.params,
      state.statistics,
      config.loss,
      config.optimizer,
    )
  else:
    editor = Published(peer, config, state)
  turns = iter(inputs * _STEPS)
  return lambda: editor.step(next(turns))


# kind -> whether it is PyTorch's.
_KINDS = {
  "ours": False,
  "ours same": False,
  "ours convsent": False,
  "released": True,
  "batched": True,
  "released convsent": True,
}
# Whether PyTorch's -> what a process of that side imports anyway.
_OWN = {
  True: ("torch", "transformers"),
  False: ("jax", "flax.nnx", "optax", "instructedit_jax.training.data"),
}


def _child(kind: str, folder: pathlib.Path) -> dict[str, float]:
  """Runs a few steps in this process; bytes."""
  theirs = _KINDS[kind]
  for module in _OWN[theirs]:
    importlib.import_module(module)
  before = status("VmRSS")
  for module in _OWN[not theirs]:
    importlib.import_module(module)
  foreign = status("VmRSS") - before
  step = _theirs(kind, folder) if theirs else _ours(kind)
  for _ in range(_STEPS):
    result = step()
  if not theirs:
    importlib.import_module("jax").block_until_ready(result)
  whole = status("VmHWM")
  return {"peak": whole - foreign, "whole": whole, "foreign": foreign}


def main(argv: Sequence[str]) -> None:
  """Runs one side and prints its peak."""
  del argv
  kind, folder = json.loads(_CHILD.value or "[]")
  print(json.dumps(_child(kind, pathlib.Path(folder))))


if __name__ == "__main__":
  from absl import app

  import benchmarks.options  # noqa: F401 - its flags

  app.run(main)
