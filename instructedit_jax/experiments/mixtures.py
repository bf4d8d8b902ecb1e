"""What mixtures of training tasks came to, and which is recommended.

Axes: E mixtures, K training tasks.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from instructedit_jax.errors import UserError
from instructedit_jax.experiments import pictures
from instructedit_jax.experiments.proportions import Recommendation, recommend
from instructedit_jax.experiments.setup import Setup
from instructedit_jax.experiments.writing import table
from instructedit_jax.reports.aggregate import ALL_TASKS, HARMONIC, Number

_HALF_WIDTH = 1.96  # deviations from the middle to the end of an interval


class Tried(NamedTuple):
  """The mixtures that were tried, and their harmonic mean on one test task.

  Attributes:
    names: [E], the editors.
    shares: [E, K] of the training tasks; a mixture's sum to one.
    values: [E].
    deviations: [E], standard deviations of the values.
  """

  names: list[str]
  shares: np.ndarray
  values: list[float]
  deviations: list[float]


def tried(
  setup: Setup, values: Sequence[Number]
) -> tuple[list[str], dict[str, Tried]]:
  """The K training tasks, and of every test task and their mean what was tried.

  Raises:
    UserError: no mixture was evaluated.
  """
  recipes = setup.config.editors
  tasks = list(dict.fromkeys(t for r in recipes.values() for t in r.tasks))
  found = {}
  for goal in (*setup.tasks, ALL_TASKS):
    mine = [
      n
      for n in values
      if (n.metric, n.query) == (HARMONIC, setup.config.queries[0])
      and n.task == goal
      and n.editor in recipes
    ]
    if not mine:
      continue
    weights = np.array(
      [[recipes[n.editor].tasks.get(t, 0.0) for t in tasks] for n in mine]
    )
    found[goal] = Tried(
      [n.editor for n in mine],
      weights / weights.sum(1, keepdims=True),
      [n.value for n in mine],
      [(n.high - n.low) / 2 / _HALF_WIDTH for n in mine],
    )
  if not found:
    raise UserError("no mixture has a harmonic mean: there is nothing to fit")
  return tasks, found


def recommendations(
  goals: Mapping[str, Tried],
) -> dict[str, Recommendation]:
  """The best shares for every test task and for their mean.

  Raises:
    UserError: too few mixtures were evaluated.
  """
  return {
    goal: recommend(each.shares, each.values, each.deviations)
    for goal, each in goals.items()
  }


def text(
  tasks: Sequence[str],
  goals: Mapping[str, Tried],
  best: Mapping[str, Recommendation],
) -> str:
  """The recommended shares of `tasks` beside the best mixture tried."""
  lines = []
  for goal, each in best.items():
    shares = [
      f"{100 * s:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
      for s, low, high in zip(each.shares, each.low, each.high, strict=True)
    ]
    fit = f"{each.value:.1f}; {each.error:.2f} against {each.spread:.2f}"
    first = int(np.argmax(goals[goal].values))
    ran = f"{goals[goal].names[first]}, {goals[goal].values[first]:.1f}"
    lines.append((goal, [*shares, fit, ran]))
  heads = [
    *tasks,
    "expected; error of the fit against spread of runs",
    "best that was tried",
  ]
  note = (
    "Quadratic mixture model of the harmonic mean; shares within those that"
    " were tried, in steps of 5 %. Where the fit's error is not below the"
    " spread of the runs, trust the mixtures that were tried.\n\n"
  )
  return note + table("best for", heads, lines)


def draw(
  tasks: Sequence[str],
  goals: Mapping[str, Tried],
  out_png: str | os.PathLike[str],
) -> None:
  """A triangle a test task, where there are three training tasks."""
  if len(tasks) != 3:
    return
  pictures.triangles(
    {goal: (each.shares, each.values) for goal, each in goals.items()},
    tasks,
    out_png,
    "Harmonic mean of editors by their shares of training tasks",
  )
