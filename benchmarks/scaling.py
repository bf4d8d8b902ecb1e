r"""Scaling: throughput by batch, length, rank, edits and devices.

  python -m benchmarks.scaling --out=scaling.json
  python -m benchmarks.scaling --paper=8,64,256 --devices= --sweeps=

Batches are random numbers in the shape of real ones, every position in use.
Fake CPU devices share this machine's cores: their throughput shows that the
program runs divided and what dividing costs, not a speed-up. What scaling would
be on real devices is read off programs compiled for as many: work and bytes
sent of one device, and from these the share of its time a device would work if
nothing of the traffic were hidden.

Points that need another number of devices run in a process of their own: that
number is fixed when JAX starts.
"""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks import options, points, rows
from benchmarks.points import Point
from benchmarks.rows import Row
from benchmarks.timing import Times
from instructedit_jax import app
from instructedit_jax.errors import UserError

_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Fake devices.")
_PAPER = flags.DEFINE_list(
  "paper", ["8", "64", "256"], "Devices to compile for; nothing is run."
)
_SWEEPS = flags.DEFINE_list(
  "sweeps", ["batch", "length", "rank", "rows", "edits"], "What is varied."
)
_POINTS = flags.DEFINE_string("points", None, "Internal: points, JSON.")
# A TPU v5e chip: a third of 197 TFLOP/s, and one of its four links both ways.
_RATE = flags.DEFINE_float("chip_tflops", 65.0, "What a chip reaches.")
_LINK = flags.DEFINE_float("link_gb", 45.0, "What it sends, 1e9 bytes/s.")

_VALUES: dict[str, tuple[str, tuple[int, ...]]] = {
  "batch": ("batch", (1, 4, 8, 16)),
  "length": ("tokens", (88, 176, 352)),
  "rank": ("rank", (64, 256, 1024, 1920)),
  "rows": ("rows", (5, 10, 20)),
  "edits": ("edits", (1, 16, 64)),
}


def main(argv: Sequence[str]) -> None:
  """Runs every point, those with other devices in their own process."""
  del argv
  if _POINTS.value:
    for values in json.loads(_POINTS.value):
      found = points.run(Point(**values), options.repeats(5))
      print(json.dumps(found), flush=True)
    return
  unknown = [sweep for sweep in _SWEEPS.value if sweep not in _VALUES]
  if unknown:
    raise UserError(f"--sweeps={unknown[0]}: none of {', '.join(_VALUES)}")
  rows.finish(_all(), options.OUT.value)


def wanted() -> list[tuple[str, Point]]:
  """Titles and configurations."""
  found = []
  usual = Point(
    model=_model(), tokens=options.tokens(176), batch=options.BATCH.value
  )
  for count in map(int, _DEVICES.value):
    title = f"scaling, {count} fake devices (shared cores)"
    found.append((title, dataclasses.replace(usual, devices=count)))
  for sweep in _SWEEPS.value:
    field, values = _VALUES[sweep]
    for value in values[:2] if options.QUICK.value else values:
      point = dataclasses.replace(usual, **{field: value})  # type: ignore[arg-type]
      title = f"scaling, {sweep} {value}"
      if sweep == "edits":
        point = dataclasses.replace(point, kind="propose")
        title = f"scaling, {value} requests proposed at once"
      found.append((title, point))
  if "edits" in _SWEEPS.value:
    for value in (0, 1, 10, 100)[: 2 if options.QUICK.value else 4]:
      title = f"scaling, {value} edits applied at once"
      point = dataclasses.replace(usual, kind="apply", edits=value)
      found.append((title, point))
  for count in map(int, _PAPER.value):
    for each in (1, 8):
      title = f"on paper, {count} devices, {each} episodes each"
      point = dataclasses.replace(
        usual, kind="compile", devices=count, batch=each * count
      )
      found.append((title, point))
  return found


def _model() -> str:
  name = options.MODEL.value
  return name if name.startswith("random:") else f"random:{name}"


def _all() -> list[Row]:
  found: list[Row] = []
  for key, group in itertools.groupby(wanted(), lambda pair: _process(pair[1])):
    titles, made = zip(*group, strict=True)
    for title, point, result in zip(
      titles, made, _run(made, *key), strict=True
    ):
      found += _rows(title, point, result)
      print(f"{found[-1].name}: {found[-1].ours:.4g} {found[-1].unit}")
  return found


def _process(point: Point) -> tuple[int, bool]:
  """Points with the same of these share a process."""
  return point.devices, point.kind == "compile"


def _run(
  made: Sequence[Point], devices: int, compiled: bool
) -> list[dict[str, Any]]:
  flags_ = os.environ.get("XLA_FLAGS", "")
  flags_ += f" --xla_force_host_platform_device_count={devices}"
  environment = {**os.environ, "XLA_FLAGS": flags_, "JAX_PLATFORMS": "cpu"}
  held = json.dumps([dataclasses.asdict(point) for point in made])
  command = [sys.executable, "-m", "benchmarks.scaling", f"--points={held}"]
  command.append(f"--repeats={options.repeats(5)}")
  done = subprocess.run(
    command, env=environment, capture_output=True, text=True, check=False
  )
  if done.returncode:
    last = (done.stderr.strip() or "no message").splitlines()[-1]
    what = "compiling for" if compiled else "running on"
    raise UserError(f"{what} {devices} devices: the process ended with {last}")
  lines = done.stdout.strip().splitlines()[-len(made) :]
  return [json.loads(line) for line in lines]


def _rows(title: str, point: Point, result: dict[str, Any]) -> list[Row]:
  config = dataclasses.asdict(point)
  if point.kind != "compile":
    times = Times(result["work"], result["walls"], result["cpus"])
    return [rows.rate(title, times, None, result["unit"], **config)]
  config |= result
  sent, work = result["sent_bytes"], result["product_flops"]
  per = "a device and step"
  config |= {"chip_tflops": _RATE.value, "link_gb": _LINK.value}
  busy, waiting = work / (_RATE.value * 1e12), sent / (_LINK.value * 1e9)
  share = busy / (busy + waiting)
  return [
    Row(f"{title}, work", work / 1e9, None, None, f"GFLOP {per}", config),
    Row(f"{title}, sent", sent / 1e6, None, None, f"MB {per}", config),
    Row(f"{title}, time at work", share, None, None, "of 1", config),
  ]


if __name__ == "__main__":
  app.run(main)
