"""Pictures that only experiments need: points, lines, boxes, triangles."""

import math
import os
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from instructedit_jax import figures

# Told apart without colour, too.
_MARKS = ("o", "^", "s", "D", "v", "P", "X", "*")


def scatters(
  panels: Mapping[str, np.ndarray],
  groups: Sequence[str],
  out_png: str | os.PathLike[str],
  title: str,
) -> None:
  """One panel of points [N, 2] a title, coloured by group.

  Args:
    panels: title -> points.
    groups: of each point, the same in all panels.
    out_png: file to write, whole or not at all.
    title: above the panels.
  """
  names = list(dict.fromkeys(groups))
  member = {name: np.array([g == name for g in groups]) for name in names}

  def draw(axes: Axes, points: np.ndarray) -> None:
    for i, name in enumerate(names):
      chosen = points[member[name]]
      axes.scatter(
        chosen[:, 0],
        chosen[:, 1],
        s=9,
        marker=_MARKS[i % len(_MARKS)],
        color=figures.COLOURS[i % len(figures.COLOURS)],
        alpha=0.7,
        linewidths=0,
        label=name,
      )
    axes.set_xticks([])
    axes.set_yticks([])

  _grid(panels, draw, out_png, title, size=(2.9, 2.7))


def lines(
  panels: Mapping[
    str, Mapping[str, Sequence[tuple[float, float, float, float]]]
  ],
  out_png: str | os.PathLike[str],
  title: str,
  xlabel: str,
) -> None:
  """One panel of lines with intervals a title.

  Args:
    panels: title -> line's name -> (x, value, low, high), by x.
    out_png: file to write, whole or not at all.
    title: above the panels.
    xlabel: below them.
  """

  # A name looks the same in all panels, those included that lack some names.
  style = {
    name: i
    for i, name in enumerate(
      dict.fromkeys(n for p in panels.values() for n in p)
    )
  }

  def draw(axes: Axes, named: Mapping[str, Sequence[tuple]]) -> None:
    for name, points in named.items():
      i = style[name]
      x, y, low, high = np.array(points, float).T
      axes.errorbar(
        x,
        y,
        yerr=(np.maximum(y - low, 0), np.maximum(high - y, 0)),
        marker=_MARKS[i % len(_MARKS)],
        markersize=4,
        capsize=2,
        linewidth=1.4,
        elinewidth=0.8,
        color=figures.COLOURS[i % len(figures.COLOURS)],
        label=name,
      )
    axes.set_xlabel(xlabel)
    axes.set_xticks(
      sorted({point[0] for each in named.values() for point in each})
    )

  _grid(panels, draw, out_png, title, size=(3.4, 2.6))


def boxes(
  panels: Mapping[str, Mapping[str, Sequence[float]]],
  out_png: str | os.PathLike[str],
  title: str,
  ylabel: str,
) -> None:
  """One panel of boxes a title, all on one logarithmic scale.

  Args:
    panels: title -> box's name -> percentiles 5, 25, 50, 75, 95, positive.
    out_png: file to write, whole or not at all.
    title: above the panels.
    ylabel: what is measured.
  """

  every = [v for each in panels.values() for box in each.values() for v in box]

  def draw(axes: Axes, named: Mapping[str, Sequence[float]]) -> None:
    keys = ("whislo", "q1", "med", "q3", "whishi")
    axes.bxp(
      [
        {**dict(zip(keys, values, strict=True)), "label": name}
        for name, values in named.items()
      ],
      showfliers=False,
    )
    axes.set_yscale("log")
    axes.set_ylim(min(every) / 1.3, 1.3 * max(every))
    axes.set_ylabel(ylabel)
    axes.tick_params(axis="x", labelrotation=30)

  _grid(panels, draw, out_png, title, size=(3.2, 2.9))


def triangles(
  panels: Mapping[str, tuple[np.ndarray, Sequence[float]]],
  corners: Sequence[str],
  out_png: str | os.PathLike[str],
  title: str,
) -> None:
  """One panel of values over mixtures of three a title.

  A mixture of one alone is at its corner; colours go from a panel's lowest
  value to its highest.

  Args:
    panels: title -> shares [E, 3], each row of sum one, and values [E].
    corners: names of the three, left, right and top.
    out_png: file to write, whole or not at all.
    title: above the panels.
  """
  places = np.array([[0, 0], [1, 0], [0.5, 0.75**0.5]])

  def draw(axes: Axes, content: tuple[np.ndarray, Sequence[float]]) -> None:
    shares, values = content
    x, y = (shares @ places).T
    axes.plot(*places[[0, 1, 2, 0]].T, color="#999999", linewidth=0.8, zorder=1)
    axes.scatter(x, y, s=70, c=values, cmap="viridis", clip_on=False, zorder=2)
    for at, value in zip(zip(x, y, strict=True), values, strict=True):
      axes.annotate(
        f"{value:.1f}",
        at,
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=8,
      )
    below = ((0, -14), (0, -14), (0, 20))
    for place, name, offset in zip(places, corners, below, strict=True):
      axes.annotate(
        name,
        place,
        xytext=offset,
        textcoords="offset points",
        ha="center",
        va="center",
        color="#555555",
      )
    axes.set_aspect("equal")
    axes.set_xlim(-0.15, 1.15)
    axes.set_ylim(-0.15, 1.1)
    axes.axis("off")

  _grid(panels, draw, out_png, title, size=(2.9, 2.7))


def _grid(panels, draw, out_png, title: str, size: tuple[float, float]) -> None:
  columns = min(3, len(panels))
  rows = math.ceil(len(panels) / columns)
  with mpl.rc_context(figures.STYLE):
    figure = Figure(
      figsize=(max(4.5, size[0] * columns), size[1] * rows + 0.8),
      layout="constrained",
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, (name, content) in zip(axes.flat, panels.items(), strict=False):
      draw(place, content)
      place.set_title(name)
    for place in list(axes.flat)[len(panels) :]:
      place.set_visible(False)
    if any(place.get_legend_handles_labels()[1] for place in axes.flat):
      figures.legend(figure, axes.flat)
    figures.headline(figure, title)
    figures.save(figure, out_png)
