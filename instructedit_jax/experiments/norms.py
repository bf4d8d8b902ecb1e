"""How large updates and gradients are, by task: Figure 4d."""

import pathlib
from collections.abc import Sequence

import numpy as np

from instructedit_jax.editors.base import Request
from instructedit_jax.editors.catalogue import open_editor
from instructedit_jax.editors.metalearned import KE
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.evaluation.options import Options
from instructedit_jax.experiments import gram
from instructedit_jax.experiments.directions import updates
from instructedit_jax.experiments.entrants import Entrant, dtype
from instructedit_jax.experiments.loaded import Models
from instructedit_jax.experiments.setup import Setup
from instructedit_jax.experiments.writing import table
from instructedit_jax.metric_writer import FILE_NAME, read_metrics
from instructedit_jax.tasks.splits import load_split

QUANTILES = (5, 25, 50, 75, 95)
Norms = dict[str, dict[str, list[float]]]


def update_norms(setup: Setup, entrants: Sequence[Entrant]) -> Norms:
  """editor -> task -> quantiles of the norm of its pseudo-gradients.

  A record's norm is the root of the sum of squares over all editable matrices;
  of the first seed of each editor that has pseudo-gradients.
  """
  options = Options(instruction=setup.config.instruction, pools=setup.pools)
  models = Models(setup.config.model, dtype(entrants, setup.dtype))
  found: Norms = {}
  for entrant in entrants:
    editor = open_editor(entrant.specs[0])
    if not isinstance(editor, TrainedEditor) or editor.config.method == KE:
      continue
    model, cache = models(editor)
    found[entrant.name] = {}
    for task in setup.tasks:
      records = load_split(setup.data, task, "test")[0]
      requests = [
        Request(r.prompt, r.target, options.instruction_of(r))
        for r in records[: setup.limit or None]
      ]
      made = updates(model, editor, requests, ["pseudo"], cache)["pseudo"]
      squares = [
        gram.norms(gram.inner_products(made.u[m], made.v[m])) ** 2
        for m in made.u
      ]
      norms = np.sqrt(np.sum(squares, 0))
      found[entrant.name][task] = np.percentile(norms, QUANTILES).tolist()
  return found


def training_norms(entrants: Sequence[Entrant]) -> dict[str, list[float]]:
  """editor -> quantiles over steps of the training loss's gradient norm.

  Of the steps that were written down, all seeds together; editors whose folder
  has no metrics are left out.
  """
  found = {}
  for entrant in entrants:
    values = []
    for spec in entrant.specs:
      path = pathlib.Path(spec) / FILE_NAME
      if path.is_file():
        rows = read_metrics(path)
        values += [row.get("train/gradient_norm", np.nan) for row in rows]
    kept = np.array([v for v in values if np.isfinite(v)])
    if kept.size:
      found[entrant.name] = np.percentile(kept, QUANTILES).tolist()
  return found


def norm_text(updates_: Norms, training: dict[str, list[float]]) -> str:
  """Both as tables."""
  tasks = list(next(iter(updates_.values())))

  def cells(values: Sequence[float]) -> str:
    low, _, median, _, high = values
    return f"{median:.4g} ({low:.4g} to {high:.4g})"

  first = table(
    "editor",
    tasks,
    [(n, [cells(each[t]) for t in tasks]) for n, each in updates_.items()],
  )
  parts = [
    "Norm of the pseudo-gradient over test records: median (5th to 95th"
    f" percentile).\n\n{first}"
  ]
  if training:
    second = table(
      "editor", ["norm"], [(n, [cells(each)]) for n, each in training.items()]
    )
    parts.append(
      "Norm of the training loss's gradient over the steps that were written"
      f" down.\n\n{second}"
    )
  return "\n\n".join(parts)
