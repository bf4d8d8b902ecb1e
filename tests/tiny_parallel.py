"""One step of a tiny run on meshes of any shape; also a program of its own.

  python -m tests.tiny_parallel DEVICES DATAxMODEL[,fsdp] ...

compares the step on each mesh with that on one device.
"""

import sys
from typing import Any

import jax
import numpy as np

from instructedit_jax.editing.rows import Rows
from instructedit_jax.editors import conditioner
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.parallel import MeshConfig, ShardingConfig, make_mesh
from instructedit_jax.training import programs
from instructedit_jax.training.batches import Batch
from instructedit_jax.training.config import TrainConfig
from tests import tiny_run

# Compiles in a third of the time; numbers differ by rounding only.
FAST = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}
EPISODES = 8


def config(mesh: str, **changes: Any) -> TrainConfig:
  """One round of a small network on the mesh "DATAxMODEL[,fsdp]"."""
  shape, _, words = mesh.partition(",")
  data, model = map(int, shape.split("x"))
  network = HypernetworkConfig(rank=8, v_scale="width", statistics_per="matrix")
  return tiny_run.config(
    batch_size=EPISODES,
    editor=EditorConfig("instructedit", network, rounds=1, ridge=0.0),
    mesh=MeshConfig(data, model),
    sharding=ShardingConfig(fsdp=words == "fsdp"),
    **changes,
  )


def batch(model: LanguageModel) -> Batch:
  """Random numbers in the shape of a batch: 12 tokens, 3 answer rows."""
  rng = np.random.default_rng(0)
  width, vocab = model.config.width, model.config.vocab

  def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=(EPISODES, *shape)).astype(np.float32)

  def rows(tokens: int, ends: int) -> Rows:
    order = np.arange(tokens, dtype=np.int32)[None].repeat(EPISODES, 0)
    at = np.sort(rng.permuted(order, axis=1)[:, :ends], 1)
    labels = rng.integers(vocab, size=at.shape).astype(np.int32)
    mask = rng.random(at.shape) < 0.8
    return Rows(
      normal(tokens, width), order, np.ones_like(order), at, labels, mask
    )

  edit, query = rows(12, 3), rows(16, 5)
  base = query.hidden[:, :2] + normal(2, width)
  avoid = np.zeros((EPISODES, 3), bool)
  told = np.arange(EPISODES) % 2 == 0
  weight = np.abs(normal(5))
  return Batch(
    edit, query, base, weight, avoid, normal(conditioner.size(width)), told
  )


def outcome(run: TrainConfig, model: LanguageModel) -> dict[str, np.ndarray]:
  """Metrics, statistics and Adam's moments (the gradient) after one step."""
  devices = jax.devices()[: run.mesh.data * run.mesh.model]
  mesh = make_mesh(run.mesh, run.batch_size, devices)
  made = programs.build(run, programs.divided(model, run, mesh), mesh)
  given = (made.state, made.weights, made.place(batch(model)))
  compiled = made.train.lower(*given).compile(compiler_options=FAST)
  state, metrics = compiled(*given)
  kept = (metrics, state.statistics, state.optimizer)
  flat = jax.tree_util.tree_flatten_with_path(kept)[0]
  return {jax.tree_util.keystr(k): np.asarray(leaf) for k, leaf in flat}


def require_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
  """Equal within float32 rounding: sums of the same numbers, reordered."""
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    scale = float(np.abs(value).max(initial=0.0))
    np.testing.assert_allclose(
      ours[name], value, rtol=1e-4, atol=1e-5 * scale + 1e-9, err_msg=name
    )


def main(devices: str, *meshes: str) -> None:
  """Compares every mesh with one device."""
  jax.config.update("jax_num_cpu_devices", int(devices))
  model = tiny_run.model()
  alone = outcome(config("1x1"), model)
  for mesh in meshes:
    require_equal(outcome(config(mesh), model), alone)
    print("equal", mesh, flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
