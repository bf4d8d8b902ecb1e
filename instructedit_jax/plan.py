r"""Says what a training run needs before there is a machine to run it on.

  python -m instructedit_jax.plan --config=configs/multi.py:gpt2-xl \
    --devices=1 --memory_gb=80
  python -m instructedit_jax.plan --table

Neither weights nor devices are needed: the run's programs are traced with
shapes alone. Prints parameters, bytes of one device by kind, FLOPs of an
episode by part, the time of a step, and whether it fits. `--config.KEY=VALUE`
overrides as in training; models are known by name or by a directory's
config.json, and nothing is downloaded.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from instructedit_jax import app

_CONFIG = app.config_flag(
  default="configs/multi.py", help="Of the run; configs/multi.py if left out."
)
_DEVICES = flags.DEFINE_integer("devices", 1, "How many, all alike.")
_MEMORY = flags.DEFINE_float("memory_gb", 80.0, "Of one device, in 1e9 bytes.")
_RATE = flags.DEFINE_float(
  "flops_per_s", 1e14, "What one device is expected to reach, not its peak."
)
_PROCESSES = flags.DEFINE_integer(
  "processes", 1, "That share the devices; usually one a host."
)
_MODEL_AXIS = flags.DEFINE_integer(
  "model_axis",
  None,
  "Devices that share one copy of the weights; default config.mesh.model.",
)
_CACHED = flags.DEFINE_bool(
  "cached", False, "All prefix states are computed: the prefix is not loaded."
)
_COMPILE = flags.DEFINE_bool(
  "compile",
  False,
  "Ask this machine's compiler about the step, in place of the estimate.",
)
_TABLE = flags.DEFINE_bool(
  "table", False, "Compare well-known models on well-known machines."
)
_OUT = flags.DEFINE_string("out", None, "Also write it as JSON to this file.")

_MODELS = ("gpt2-xl", "llama-2-7b", "llama-2-13b", "llama-2-70b")


def main(argv: Sequence[str]) -> None:
  """Entry point."""
  del argv
  from instructedit_jax.errors import UserError
  from instructedit_jax.files import atomic_write

  for flag in (_DEVICES, _PROCESSES, _MEMORY, _RATE, _MODEL_AXIS):
    if flag.value is not None and flag.value <= 0:
      raise UserError(f"--{flag.name}={flag.value}: must be above 0")
  if _CONFIG.value.get("trainer") == "reference":
    raise UserError(
      "the planner knows the compiled step, not the published recipe that"
      " configs/reference.py runs; plan configs/multi.py"
    )
  found = _compare() if _TABLE.value else _one()
  if _OUT.value:
    with atomic_write(_OUT.value) as path:
      path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _one() -> dict[str, Any]:
  from instructedit_jax.planning import costs, placement, shapes, text
  from instructedit_jax.planning.machines import EFFICIENCY, Machine
  from instructedit_jax.training import config as config_lib

  run = shapes.of_run(config_lib.from_config(_CONFIG.value))
  needs = costs.of_run(run)
  machine = Machine(
    f"{_DEVICES.value} x {_MEMORY.value:g} GB",
    _DEVICES.value,
    _MEMORY.value * 1e9,
    _RATE.value / EFFICIENCY,
    _PROCESSES.value,
  )
  axis = _MODEL_AXIS.value or run.run.mesh.model
  size = run.run.batch_size
  placed = placement.place(run, needs, machine, size, axis, _CACHED.value)
  found = {"model": run.run.model, **text.plain(needs, placed)}
  if _COMPILE.value:
    report = costs.compiled_step(run, placed.episodes)
    found["compiled"] = report
    placed = placement.place(
      run, needs, machine, size, axis, _CACHED.value, report["temporary"]
    )
    found |= text.plain(needs, placed)
  print(text.report(run.run.model, needs, placed))
  return found


def _compare() -> dict[str, Any]:
  from instructedit_jax.planning import costs, shapes, text
  from instructedit_jax.planning.machines import MACHINES
  from instructedit_jax.training import config as config_lib

  base = config_lib.from_config(_CONFIG.value)
  rows = []
  for model in _MODELS:
    config = dataclasses.replace(
      base, model=f"random:{model}", dtype="bfloat16"
    )
    run = shapes.of_run(config)
    needs = costs.of_run(run)
    rows += [
      text.table_row(model, run, needs, machine, cached)
      for machine in MACHINES
      for cached in (False, True)
    ]
  print(text.table(rows))
  return {"rows": rows}


if __name__ == "__main__":
  app.run(main)
