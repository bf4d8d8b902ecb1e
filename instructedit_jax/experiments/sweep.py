"""Editors trained in different ways, compared on all tasks.

python -m instructedit_jax.experiments.sweep --config=configs/paper/NAME.py \
  --data=DIR --out=results/NAME

NAME is one of
  transfer     Table 1: editors of a single task on the other tasks
  task_count   Figure 4c: one, two and three training tasks
  balance      Figure 4d: balanced against natural mixture, with norms
  proportions  shares of the training tasks, with a fitted recommendation
  shapes       rank, depth, activation and form of the hypernetwork
  domain       opinions as the hold-out of editors of facts, and the reverse

Each editor of the configuration is trained unless it is there already.
"""

from collections.abc import Sequence
from typing import Any

from absl import logging

from instructedit_jax import figures
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation.scores import EDIT_SUCCESS
from instructedit_jax.experiments import mixtures, norms, pictures
from instructedit_jax.experiments.entrants import Entrant, entrants
from instructedit_jax.experiments.measuring import Measuring, Way
from instructedit_jax.experiments.setup import Setup, start
from instructedit_jax.experiments.table3 import (
  COLUMNS,
  bar_rows,
  compared,
  difference_table,
)
from instructedit_jax.experiments.writing import cell, table, write
from instructedit_jax.reports.aggregate import Number, numbers

NAME = "sweep"


def run(setup: Setup) -> None:
  """Trains what is missing, evaluates and writes tables and pictures."""
  found, failed = entrants(setup)
  measuring = Measuring(setup)
  way = Way(setup.config.instruction, tuple(setup.config.queries))
  runs = measuring(found, way)
  values = numbers(runs)
  reference = setup.config.reference
  differences = compared(
    runs, [(e.name, reference) for e in found if e.name != reference]
  )
  sections = {"Editors": f"{setup.config.about}\n\n{_trained_on(found)}"}
  for query in way.queries:
    for metric in (*COLUMNS, EDIT_SUCCESS):
      text = task_table(values, found, query, metric)
      if text:
        sections[f"{metric}, {query} questions"] = text
  if differences:
    sections["Differences"] = difference_table(differences)
  extra: dict[str, Any] = {}
  if setup.config.proportions:
    try:
      tasks, tried = mixtures.tried(setup, values)
      best = mixtures.recommendations(tried)
      extra["recommendations"] = best
      sections["Recommended mixture"] = mixtures.text(tasks, tried, best)
      mixtures.draw(tasks, tried, setup.out / "figure-mixtures.png")
    except UserError as error:  # numbers there are, without a fit
      failed["recommended mixture"] = str(error)
  if setup.config.norms:
    measured = [e for e in found if any(r.editor == e.name for r in runs)]
    updates = norms.update_norms(setup, measured)
    training = norms.training_norms(measured)
    extra |= {"update_norms": updates, "training_norms": training}
    if updates:  # only hypernetworks of MEND's form have pseudo-gradients
      sections["Norms"] = norms.norm_text(updates, training)
      pictures.boxes(
        updates,
        setup.out / "figure-norms.png",
        "Pseudo-gradients of test records, 5th to 95th percentile",
        "Frobenius norm",
      )
  write(
    setup,
    f"{setup.config.title}, {setup.config.model}",
    sections,
    {"numbers": values, "differences": differences, **extra},
    {NAME: runs},
    failed | measuring.failed,
  )
  draw(setup, values, way.queries[0])


def task_table(
  values: Sequence[Number],
  found: Sequence[Entrant],
  query: str,
  metric: str,
) -> str:
  """Editors as lines, test tasks as columns; "" if there is no number.

  A task that an editor was trained on is marked.
  """
  held = {
    (n.editor, n.task): n
    for n in values
    if (n.query, n.metric) == (query, metric)
  }
  tasks = list(dict.fromkeys(task for _, task in held))
  if not tasks:
    return ""
  lines = [
    (
      entrant.name,
      [
        cell(held.get((entrant.name, task)))
        + (" †" if task in entrant.trained_on else "")
        for task in tasks
      ],
    )
    for entrant in found
  ]
  return table("editor", tasks, lines) + "\n\n† trained on this task"


def draw(setup: Setup, values: Sequence[Number], query: str) -> None:
  """Lines over the axis where there is one, else bars."""
  axis = dict(setup.config.axis.items())
  if not axis:
    figures.bars(bar_rows(values), setup.out / "figure.png", setup.config.title)
    return
  panels: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
  for n in values:
    if n.query != query or n.editor not in axis or n.metric not in COLUMNS:
      continue
    point = (axis[n.editor], n.value, n.low, n.high)
    panels.setdefault(n.metric, {}).setdefault(n.task, []).append(point)
  if not panels:
    logging.warning("no editor of %s was evaluated: no figure", list(axis))
    return
  pictures.lines(
    {
      metric: {task: sorted(points) for task, points in panels[metric].items()}
      for metric in COLUMNS
      if metric in panels
    },
    setup.out / "figure.png",
    setup.config.title,
    setup.config.axis_label,
  )


def _trained_on(found: Sequence[Entrant]) -> str:
  lines = [
    (e.name, [", ".join(e.trained_on) or "–", str(len(e.specs))]) for e in found
  ]
  return table("editor", ["trained on", "seeds"], lines)


if __name__ == "__main__":
  start(NAME, run)
