r"""The planner's bytes beside those of a real run on this machine.

  python -m benchmarks.resident --config=configs/quickstart.py

takes a few training steps on one device and compares the arrays that are held
between steps, what the compiler says of the step, and the whole process as the
kernel counts it. A process also holds libraries and records, and compiling
needs memory once (compiled programs are kept, so a second run shows it without)
- the planner counts none of these. With --config.prefix_cache=disk:PATH and a
filled store the frozen prefix is not loaded, as in training.
"""

import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks.process import status
from instructedit_jax import app

_STEPS = 3


def measure(config: Any) -> dict[str, dict[str, float]]:
  """Bytes: planned, found, and of the process; `config` is a TrainConfig."""
  import jax

  from instructedit_jax import parallel
  from instructedit_jax.training import programs
  from instructedit_jax.training.data import Episodes, load_records

  def live() -> int:
    return sum(array.nbytes for array in jax.live_arrays())

  mesh = parallel.make_mesh(config.mesh, config.batch_size)
  others, process = live(), {"libraries": status("VmRSS")}
  model = programs.load(config, mesh)
  process |= {"model loaded": status("VmRSS"), "loading": status("VmHWM")}
  episodes = Episodes(model, config, load_records(config))
  made = programs.build(config, model, mesh)
  state = made.state
  batches = episodes.batches(0, made.rows, made.turn)
  batch = made.place(next(batches))
  step = made.train.lower(state, made.weights, batch).compile()
  report = step.memory_analysis()
  for _ in range(min(_STEPS, config.steps - 1)):
    state, metrics = step(state, made.weights, batch)
    batch = made.place(next(batches))
  jax.block_until_ready((state, metrics))
  process["a few steps"] = status("VmHWM")
  del batch, metrics, batches
  found: dict[str, float] = {
    "between steps": live() - others,
    "arguments of a step": int(report.argument_size_in_bytes),
    "intermediate values": int(report.temp_size_in_bytes),
  }
  return {"planned": planned(config), "found": found, "process": process}


def planned(config: Any) -> dict[str, float]:
  """What the planner says of the same."""
  from instructedit_jax.planning import costs, placement, shapes
  from instructedit_jax.planning.machines import Machine
  from instructedit_jax.training import prefix_fill

  run = shapes.of_run(config)
  needs = costs.of_run(run)
  machine = Machine("this", 1, 1e12, 1e12)
  filled = prefix_fill.is_filled(config)
  size = config.batch_size
  bytes_ = placement.place(run, needs, machine, size, 1, filled).bytes
  state = needs.editor + needs.optimizer + needs.statistics
  read = bytes_["weights: suffix"] + bytes_["weights: head"]
  weights = sum(v for key, v in bytes_.items() if key.startswith("weights"))
  return {
    "between steps": weights + state,
    "arguments of a step": read + state + size * needs.batch,
    "intermediate values": needs.step_bytes(size),
    "in all": sum(bytes_.values()),
  }


def text(measured: dict[str, dict[str, float]]) -> str:
  """For people, in units of 1e6 bytes."""
  plan, found = measured["planned"], measured["found"]
  lines = [f"{'MB':24}{'planned':>10}{'found':>10}{'ratio':>8}"]
  for name, value in found.items():
    ours = plan[name]
    lines.append(
      f"{name:24}{ours / 1e6:10.1f}{value / 1e6:10.1f}{ours / value:8.3f}"
    )
  lines += [f"{'in all':24}{plan['in all'] / 1e6:10.1f}", "", "the process"]
  for name, value in measured["process"].items():
    lines.append(f"{name:24}{'':10}{value / 1e6:10.1f}")
  return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
  """Measures, prints and, if wanted, writes JSON."""
  del argv
  import jax

  from instructedit_jax.errors import UserError
  from instructedit_jax.files import atomic_write
  from instructedit_jax.training import config as config_lib

  if jax.device_count() > 1:
    raise UserError(
      f"this compares one device's bytes, and there are {jax.device_count()};"
      " start it with JAX_NUM_CPU_DEVICES=1 or CUDA_VISIBLE_DEVICES=0"
    )
  made = config_lib.from_config(flags.FLAGS.config)
  measured = measure(made)
  print(text(measured))
  if flags.FLAGS.out:
    with atomic_write(flags.FLAGS.out) as path:
      path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def _define_flags() -> None:
  app.config_flag(help="Of the run.")
  flags.DEFINE_string("out", None, "File for the numbers, JSON.")


if __name__ == "__main__":
  _define_flags()
  app.run(main)
