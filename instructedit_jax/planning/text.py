"""Plans as text for people and plain values for JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from instructedit_jax.planning import placement
from instructedit_jax.planning.costs import Costs
from instructedit_jax.planning.machines import EFFICIENCY, USABLE, Machine
from instructedit_jax.planning.placement import Placement
from instructedit_jax.planning.shapes import RunShapes

# Episodes of a step on one group of devices, in the table.
LARGEST = 32
_GB = 1e9


def report(name: str, costs: Costs, placed: Placement) -> str:
  """One run on one machine, several lines."""
  machine = placed.machine
  lines = [
    f"{name} on {machine.name}: {placed.data_axis} x {placed.model_axis}"
    f" devices (data x model), {placed.episodes} episodes a group",
    "",
    "parameters",
    *_lines(costs.parameters, _count),
    "",
    "bytes of one device",
    *_lines(placed.bytes, _bytes, placed.total),
    "",
    f"on the host: {_bytes(costs.cache_episode)} of prefix states for each"
    " new episode, up to config.prefix_cache_gb",
    "",
    "FLOPs of one episode",
    *_lines(costs.flops, _flops),
    f"  {'a step, prefix cached':32}{_flops(costs.step_flops):>12}",
    "",
    f"time at {_flops(machine.rate)}/s a device: {placed.seconds:.3g} s a step,"
    f" {placed.rate:.3g} episodes/s",
    verdict(placed),
  ]
  return "\n".join(lines)


def verdict(placed: Placement) -> str:
  """One line: does it fit?"""
  need, have = _bytes(placed.total), _bytes(placed.machine.usable)
  share = f"of {_bytes(placed.machine.memory)}, {USABLE:.0%} usable"
  if placed.fits:
    return f"fits: {need} of {have} ({share})"
  return f"does not fit: {need}, and there are {have} ({share})"


def table_row(
  name: str, run: RunShapes, costs: Costs, machine: Machine, cached: bool
) -> dict[str, Any]:
  """One line of the table: the best way to run a model on a machine."""
  axis = placement.smallest_axis(run, costs, machine, cached)
  row = {
    "model": name,
    "machine": machine.name,
    "prefix": "cached" if cached else "loaded",
    "fits": axis is not None,
    "model_axis": axis,
    "batch": 0,
    "gb_per_device": None,
    "episodes_per_second": None,
  }
  if axis is None:
    tried = placement.least(run, costs, machine, cached)
    return {**row, "gb_per_device": tried.total / _GB}
  groups = machine.devices // axis
  most = placement.largest_batch(run, costs, machine, axis, cached)
  batch = min(LARGEST, most)
  placed = placement.place(run, costs, machine, groups * batch, axis, cached)
  return {
    **row,
    "batch": groups * batch,
    "gb_per_device": placed.total / _GB,
    "episodes_per_second": placed.rate,
  }


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The rows as a Markdown table: models down, machines across."""
  machines = list(dict.fromkeys(row["machine"] for row in rows))
  cells = {
    (row["model"], row["prefix"], row["machine"]): _cell(row) for row in rows
  }
  lines = [
    f"| model | prefix | {' | '.join(machines)} |",
    "|---|---|" + "---|" * len(machines),
  ]
  for model, prefix in dict.fromkeys(key[:2] for key in cells):
    found = [cells[model, prefix, machine] for machine in machines]
    lines.append(f"| {model} | {prefix} | {' | '.join(found)} |")
  lines += [
    "",
    "GB of one device and episodes a second of all; /N: so many devices share"
    " one copy of the weights, the fewest that fit; no: the least that one"
    " would need."
    f" Batches as large as fit, at most {LARGEST} a group of devices. Rates are"
    f" {EFFICIENCY:.0%} of the makers' peak for float32 products at JAX's"
    " default precision, without the prefix's states, computed once.",
  ]
  return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
  if not row["fits"]:
    return f"no ({row['gb_per_device']:.1f})"
  shared = f" /{row['model_axis']}" if row["model_axis"] > 1 else ""
  speed = row["episodes_per_second"]
  shown = f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
  return f"{row['gb_per_device']:.1f}{shared}, {shown}/s"


def plain(costs: Costs, placed: Placement) -> dict[str, Any]:
  """Everything of a plan, for JSON."""
  return {
    "costs": dataclasses.asdict(costs),
    "step_flops": costs.step_flops,
    "machine": dataclasses.asdict(placed.machine),
    "model_axis": placed.model_axis,
    "data_axis": placed.data_axis,
    "episodes_per_group": placed.episodes,
    "prefix_cached": placed.cached,
    "bytes_per_device": placed.bytes,
    "total_bytes_per_device": placed.total,
    "seconds_per_step": placed.seconds,
    "episodes_per_second": placed.rate,
    "fits": placed.fits,
  }


def _lines(
  values: dict[str, Any], show: Any, total: float | None = None
) -> list[str]:
  lines = [f"  {name:32}{show(value):>12}" for name, value in values.items()]
  if total is not None:
    lines.append(f"  {'together':32}{show(total):>12}")
  return lines


def _count(value: float) -> str:
  return f"{value / 1e6:,.2f} M"


def _bytes(value: float) -> str:
  return f"{value / _GB:,.3f} GB" if value >= 1e7 else f"{value / 1e6:,.3f} MB"


def _flops(value: float) -> str:
  for unit, size in (("T", 1e12), ("G", 1e9)):
    if value >= size:
      return f"{value / size:,.1f} {unit}FLOP"
  return f"{value / 1e6:,.1f} MFLOP"
