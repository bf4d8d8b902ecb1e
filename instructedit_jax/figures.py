"""Pictures of a run and of a comparison, as PNG files."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from instructedit_jax import files
from instructedit_jax.errors import UserError
from instructedit_jax.metric_writer import read_metrics

# Okabe and Ito's palette, told apart with every common colour blindness; the
# two that are hard to see on white come last.
COLOURS = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#000000",
  "#56B4E9",
  "#F0E442",
)
# Of bars once the colours have all been used.
_HATCHES = ("", "///", "...", "xxx")
# Name in metrics.jsonl after "train/" or "validation/", and what it says.
CURVES = {
  "edit_loss": "edit loss (nats per token)",
  "locality_kl": "locality KL (nats per token)",
  "token_accuracy": "token accuracy after the edit",
  "locality_agreement": "locality agreement",
}
SPLITS = ("train", "validation")

_SHARES = {"token_accuracy", "locality_agreement"}  # between 0 and 1
_SMOOTHING = 0.02  # share of the run in one point of a smoothed curve
STYLE: dict[Any, Any] = {
  "font.size": 9,
  "axes.titlesize": 10,
  "axes.titlelocation": "left",
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": "#e6e6e6",
  "grid.linewidth": 0.8,
  "legend.frameon": False,
}


def learning_curves(
  jsonl_path: str | os.PathLike[str],
  out_png: str | os.PathLike[str],
  title: str = "",
) -> None:
  """Draws the curves of a run, one small panel a quantity.

  Training is a pale line of every row under its running mean; validation is a
  line with a mark at each evaluation. Losses have a logarithmic scale where all
  their numbers are positive. Panels without numbers are left out.

  Args:
    jsonl_path: metrics.jsonl with "train/NAME" and "validation/NAME", NAME
      from `CURVES`.
    out_png: file to write, whole or not at all.
    title: above the panels.

  Raises:
    UserError: no metrics to draw, or a file cannot be read or written.
  """
  rows = read_metrics(jsonl_path)
  series = {
    (split, name): points
    for name in CURVES
    for split in SPLITS
    if (points := _points(rows, f"{split}/{name}"))[0]
  }
  names = [n for n in CURVES if any((s, n) in series for s in SPLITS)]
  if not names:
    raise UserError(
      f"{jsonl_path}: no row has one of train/ or validation/"
      f" {', '.join(CURVES)}; there is nothing to draw."
    )
  with mpl.rc_context(STYLE):
    columns = min(2, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(
      figsize=(4.2 * columns, 2.6 * lines + 0.7), layout="constrained"
    )
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for name, axes in zip(names, panels.flat, strict=False):
      _curve_panel(axes, name, series)
    for axes in list(panels.flat)[len(names) :]:
      axes.set_visible(False)
      panels[-2, -1].tick_params(labelbottom=True)
    for axes in panels[-1]:
      axes.set_xlabel("step")
    headline(figure, title)
    legend(figure, panels.flat)
    save(figure, out_png)


def bars(
  summary_rows: Sequence[Mapping[str, Any]],
  out_png: str | os.PathLike[str],
  title: str = "",
) -> None:
  """Draws grouped bars with 95 % intervals: a panel for each task and metric.

  Rows of the figure are tasks, columns metrics, groups queries, colours
  editors; all in the order of first appearance.

  Args:
    summary_rows: mappings with task, editor, query, metric, value, low, high
      and n; values and their interval in the unit of the metric.
    out_png: file to write, whole or not at all.
    title: above the panels.

  Raises:
    UserError: no rows, or the file cannot be written.
  """
  if not summary_rows:
    raise UserError(f"{out_png}: no summary rows, so there is nothing to draw.")
  tasks, metrics, editors, queries = (
    list(dict.fromkeys(str(row[key]) for row in summary_rows))
    for key in ("task", "metric", "editor", "query")
  )
  cells = {
    tuple(str(row[k]) for k in ("task", "metric", "editor", "query")): row
    for row in summary_rows
  }
  with mpl.rc_context(STYLE):
    width = max(2.4, 0.35 + 0.2 * (len(editors) + 1) * len(queries))
    figure = Figure(
      figsize=(max(4.0, 0.6 + width * len(metrics)), 2.1 * len(tasks) + 0.9),
      layout="constrained",
    )
    panels = figure.subplots(
      len(tasks), len(metrics), squeeze=False, sharex=True, sharey="col"
    )
    for axes, metric in zip(panels[0], metrics, strict=True):
      axes.set_title(metric)
      rows = [row for row in summary_rows if str(row["metric"]) == metric]
      if all(row["low"] >= 0 and row["high"] <= 1 for row in rows):
        axes.set_ylim(0, 1.02)  # the whole column shares it
    for i, task in enumerate(tasks):
      for j, metric in enumerate(metrics):
        axes = panels[i, j]
        _bar_panel(axes, cells, (task, metric), editors, queries)
        if j == 0:
          axes.set_ylabel(_with_count(task, cells))
    headline(figure, title)
    legend(figure, panels.flat)
    save(figure, out_png)


def _points(
  rows: Sequence[Mapping[str, Any]], name: str
) -> tuple[list[int], list[float]]:
  """Steps and values of one name, without the numbers that are not finite."""
  found = [
    (row["step"], row[name])
    for row in rows
    if name in row and math.isfinite(row[name])
  ]
  return [step for step, _ in found], [value for _, value in found]


def _curve_panel(
  axes: Axes,
  name: str,
  series: Mapping[tuple[str, str], tuple[list[int], list[float]]],
) -> None:
  axes.set_title(CURVES[name])
  lowest = math.inf
  if ("train", name) in series:
    steps, values = series["train", name]
    lowest = min(lowest, *values, math.inf)
    axes.plot(steps, values, color=COLOURS[0], alpha=0.25, linewidth=0.8)
    axes.plot(
      steps, _smooth(values), color=COLOURS[0], linewidth=1.6, label="train"
    )
  if ("validation", name) in series:
    steps, values = series["validation", name]
    lowest = min(lowest, *values, math.inf)
    axes.plot(
      steps,
      values,
      color=COLOURS[1],
      linewidth=1.6,
      marker="o",
      markersize=3.5,
      label="validation",
    )
  if name in _SHARES:
    axes.set_ylim(-0.02, 1.02)
  elif lowest > 0:
    axes.set_yscale("log")


def _smooth(values: Sequence[float]) -> list[float]:
  """Mean over the neighbours on both sides, fewer at the ends."""
  reach = int(len(values) * _SMOOTHING / 2)
  sums = [0.0]
  for value in values:
    sums.append(sums[-1] + value)
  means = []
  for i in range(len(values)):
    low, high = max(i - reach, 0), min(i + reach + 1, len(values))
    means.append((sums[high] - sums[low]) / (high - low))
  return means


def _bar_panel(
  axes: Axes,
  cells: Mapping[tuple[str, ...], Mapping[str, Any]],
  place: tuple[str, str],
  editors: Sequence[str],
  queries: Sequence[str],
) -> None:
  width = 0.8 / len(editors)
  for e, editor in enumerate(editors):
    xs, heights, below, above = [], [], [], []
    for q, query in enumerate(queries):
      row = cells.get((*place, editor, query))
      if row is None:
        continue
      value, low, high = (float(row[k]) for k in ("value", "low", "high"))
      xs.append(q + (e - (len(editors) - 1) / 2) * width)
      heights.append(value)
      # An interval may miss its estimate by a rounding; a bar must not.
      below.append(max(value - low, 0.0))
      above.append(max(high - value, 0.0))
    axes.bar(
      xs,
      heights,
      0.9 * width,
      color=COLOURS[e % len(COLOURS)],
      hatch=_HATCHES[e // len(COLOURS) % len(_HATCHES)],
      edgecolor="white",
      linewidth=0,
      label=editor,
      yerr=(below, above),
      error_kw={"elinewidth": 1.0, "capsize": 2.0, "ecolor": "#333333"},
    )
  axes.set_xticks(range(len(queries)), queries)
  axes.tick_params(axis="x", length=0)
  axes.grid(visible=False, axis="x")
  axes.set_xlim(-0.6, len(queries) - 0.4)
  if not axes.patches:
    # Said, so that nobody takes it for zero.
    axes.text(
      *(0.5, 0.5, "not asked"),
      transform=axes.transAxes,
      ha="center",
      color="#777777",
    )


def _with_count(
  task: str, cells: Mapping[tuple[str, ...], Mapping[str, Any]]
) -> str:
  counts = {int(row["n"]) for key, row in cells.items() if key[0] == task}
  low, high = min(counts), max(counts)
  return f"{task}\nn = {low}" + (f"–{high}" if high > low else "")


def legend(figure: Figure, panels: Any) -> None:
  """One entry a label, though every panel has its own artists."""
  handles: dict[str, Any] = {}
  for axes in panels:
    pairs = zip(*axes.get_legend_handles_labels(), strict=True)
    handles |= {label: handle for handle, label in pairs}
  inches = 0.7 + 0.085 * max(map(len, handles))
  figure.legend(
    handles.values(),
    handles.keys(),
    loc="outside lower center",
    ncols=max(1, int(figure.get_figwidth() / inches)),
  )


def headline(figure: Figure, title: str) -> None:
  """The title of a whole figure; "" leaves it out."""
  if title:
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")


def save(figure: Figure, out_png: str | os.PathLike[str]) -> None:
  """Writes a figure as a PNG, whole or not at all."""
  FigureCanvasAgg(figure)  # no window system, whatever the user's settings
  with files.atomic_write(pathlib.Path(out_png)) as path:
    figure.savefig(path, format="png", dpi=150, metadata={"Software": None})
