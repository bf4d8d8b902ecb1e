r"""Scaling: throughput by batch, length, rank and devices; traffic on paper.

  python -m benchmarks.scaling --out=scaling.json
  python -m benchmarks.scaling --paper=8,64,256 --devices= --sweeps=

Batches are random numbers in the shape of real ones. Fake CPU devices share
this machine's cores: their throughput shows that the program runs divided and
what dividing costs, not a speed-up. What scaling would be on real devices is
read off compiled programs: work and collective bytes of one device.

Every point is a process of its own: the number of devices is fixed when JAX
starts.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import rows, synthetic
from benchmarks.rows import Row
from benchmarks.timing import Times, side_by_side
from instructedit_jax import app, parallel
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import load_model
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import BatchShape
from instructedit_jax.training.losses import LossConfig

_OUT = flags.DEFINE_string("out", None, "File for the rows, JSON.")
_MODEL = flags.DEFINE_string(
  "model", "random:smollm2-135m", "A shape; loaded without its prefix."
)
_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4"], "Fake CPU devices.")
_PAPER = flags.DEFINE_list("paper", ["8", "64"], "Devices to compile for.")
_SWEEPS = flags.DEFINE_list(
  "sweeps", ["batch", "length", "rank", "edits"], "What else is varied."
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measured steps of a point.")
_POINT = flags.DEFINE_string("point", None, "Internal: one point, JSON.")


@dataclasses.dataclass(frozen=True)
class Point:
  """One configuration.

  Attributes:
    devices: fake CPU devices, all along `data`.
    batch: episodes a step, over all devices.
    tokens: of an episode's queries.
    rank: of the hypernetwork.
    edits: answer rows of an edit (each adds one to its rank).
    compile_only: count, do not run.
  """

  devices: int = 1
  batch: int = 8
  tokens: int = 176
  rank: int = 256
  edits: int = 10
  compile_only: bool = False


_VALUES: dict[str, tuple[str, tuple[int, ...]]] = {
  "batch": ("batch", (1, 4, 8, 16)),
  "length": ("tokens", (88, 176, 352)),
  "rank": ("rank", (64, 256, 1024, 1920)),
  "edits": ("edits", (5, 10, 20)),
}


def main(argv: Sequence[str]) -> None:
  """Runs every point in a process of its own."""
  del argv
  if _POINT.value:
    print(json.dumps(_run(Point(**json.loads(_POINT.value)))))
    return
  unknown = [sweep for sweep in _SWEEPS.value if sweep not in _VALUES]
  if unknown:
    raise UserError(f"--sweeps={unknown[0]}: none of {', '.join(_VALUES)}")
  rows.finish(_all(), _OUT.value)


def points() -> list[tuple[str, Point]]:
  """Titles and configurations."""
  found = []
  for count in map(int, _DEVICES.value):
    title = f"scaling, {count} fake devices (shared cores)"
    found.append((title, Point(devices=count)))
  for sweep in _SWEEPS.value:
    field, values = _VALUES[sweep]
    for value in values:
      point = dataclasses.replace(Point(), **{field: value})
      found.append((f"scaling, {sweep} {value}", point))
  for count in map(int, _PAPER.value):
    for batch in (count, 8 * count):
      point = Point(devices=count, batch=batch, compile_only=True)
      found.append((f"on paper, {count} devices, batch {batch}", point))
  return found


def _all() -> list[Row]:
  found = []
  for title, point in points():
    result = _process(point)
    if point.compile_only:
      sent, work = result["sent_bytes"], result["flops"]
      config = {**dataclasses.asdict(point), **result}
      per = "per device and step"
      found += [
        Row(f"{title}, work", work / 1e9, None, None, f"GFLOP {per}", config),
        Row(f"{title}, sent", sent / 1e6, None, None, f"MB {per}", config),
      ]
    else:
      times = Times(point.batch, result["walls"], result["cpus"])
      found.append(
        rows.rate(title, times, None, "episodes/s", **dataclasses.asdict(point))
      )
    print(f"{found[-1].name}: {found[-1].ours:.4g} {found[-1].unit}")
  return found


def _process(point: Point) -> dict[str, Any]:
  count = point.devices
  options = os.environ.get("XLA_FLAGS", "")
  if not point.compile_only or count > 1:
    options += f" --xla_force_host_platform_device_count={count}"
  environment = {**os.environ, "XLA_FLAGS": options, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "benchmarks.scaling"]
  command += [f"--point={json.dumps(dataclasses.asdict(point))}"]
  command += [f"--repeats={_REPEATS.value}", f"--model={_MODEL.value}"]
  done = subprocess.run(
    command, env=environment, capture_output=True, text=True, check=False
  )
  if done.returncode:
    last = (done.stderr.strip() or "no message").splitlines()[-1]
    raise UserError(f"{point}: its process ended with {last}")
  return json.loads(done.stdout.strip().splitlines()[-1])


def _run(point: Point) -> dict[str, Any]:
  """Times of a point, or what its compiled program says."""
  model = load_model(_MODEL.value, prefix=False, tokenizer=None)
  editor = EditorConfig(
    network=HypernetworkConfig(
      rank=point.rank,
      v_scale="width",
      statistics_per="matrix",
      last_clamp=False,
    )
  )
  shape = BatchShape(
    edit_tokens=4 * point.edits,
    edit_rows=point.edits,
    query_tokens=point.tokens,
  )
  mesh = parallel.make_mesh(parallel.MeshConfig(), point.batch)
  whole = NamedSharding(mesh, PartitionSpec())
  rule = step_lib.optimizer(step_lib.OptimizerConfig(), 100)
  step = step_lib.make_train_step(
    model.graph, editor, LossConfig(), model.config, rule
  )

  def fresh() -> step_lib.TrainState:
    key = jax.random.key(0)
    return step_lib.init_state(key, editor, model.config, rule)

  divided = NamedSharding(mesh, PartitionSpec("data"))
  batch = synthetic.batch(model.config, shape, point.batch)
  program = jax.jit(step, out_shardings=(whole, whole))
  if point.compile_only:
    abstract = (
      _abstract(jax.eval_shape(fresh), whole),
      _abstract(model.params, whole),
      _abstract(batch, divided),
    )
    return parallel.compiled_report(program.lower(*abstract).compile())
  state = jax.jit(fresh, out_shardings=whole)()
  weights = jax.device_put(model.params, whole)
  batch = jax.device_put(batch, divided)
  held = {"state": state}

  def once() -> Any:
    held["state"], metrics = program(held["state"], weights, batch)
    return metrics

  times = side_by_side({"step": once}, _REPEATS.value)["step"]
  return {"walls": times.walls, "cpus": times.cpus}


def _abstract(tree: Any, sharding: NamedSharding) -> Any:
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    tree,
  )


if __name__ == "__main__":
  app.run(main)
