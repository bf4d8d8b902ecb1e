"""Table 3: all methods on all tasks, bare and instructed questions.

python -m instructedit_jax.experiments.table3 --config=configs/paper/table3.py \
  --data=DIR --out=results/table3

`--editors=mend=DIR0,mend=DIR1,…` gives trained editors, several folders of one
name being its seeds. OUT gets table.md, numbers.json, protocol.json and
figure.png. The records, before and after, can be browsed with
`python -m instructedit_jax.report WORK/evaluations/table3/*/*`, with
`--separate` where several editors are of one method.
"""

import dataclasses
from collections.abc import Sequence

from instructedit_jax import figures
from instructedit_jax.evaluation.options import BARE, INSTRUCTED
from instructedit_jax.experiments.compare import Difference, difference
from instructedit_jax.experiments.entrants import entrants
from instructedit_jax.experiments.measuring import Measuring, Way
from instructedit_jax.experiments.setup import Setup, start
from instructedit_jax.experiments.writing import bar_row, cell, table, write
from instructedit_jax.reports.aggregate import (
  ALL_TASKS,
  HARMONIC,
  Number,
  metric_order,
  numbers,
)
from instructedit_jax.reports.runs import Run

NAME = "table3"
COLUMNS = (
  "reliability_em",
  "generalization_em",
  "locality_token",
  "portability_token",
  HARMONIC,
)
AS_PUBLISHED = "instructed against bare"
TOKENS = ("reliability_token", "generalization_token", "edit_success")
FREE = (
  "reliability_free",
  "generalization_free",
  "locality_free",
  "portability_free",
  "fluency",
)


def run(setup: Setup) -> None:
  """Trains what is missing, evaluates everything and writes the table."""
  found, failed = entrants(setup)
  measuring = Measuring(setup)
  way = Way(setup.config.instruction, tuple(setup.config.queries))
  runs = measuring(found, way)
  values = numbers(runs)
  pairs = [tuple(pair) for pair in setup.config.pairs]
  differences = compared(runs, pairs) + as_published(
    runs, [tuple(pair) for pair in setup.config.as_published]
  )
  sections = {}
  for query in way.queries:
    for task in (*setup.tasks, ALL_TASKS):
      text = method_table(values, task, query)
      if text:
        sections[f"{task}, {query} questions"] = text
  if differences:
    sections["Differences"] = difference_table(differences)
  write(
    setup,
    f"Table 3: methods and tasks, {setup.config.model}",
    sections,
    {"numbers": values, "differences": differences},
    {NAME: runs},
    failed | measuring.failed,
  )
  figures.bars(
    bar_rows(values), setup.out / "figure.png", "After one edit, percent"
  )


def method_table(values: Sequence[Number], task: str, query: str) -> str:
  """Editors as lines, metrics as columns; "" if there is no number.

  A record's paraphrases, old facts and consequences are averaged as the
  protocol says; a column that no editor has is left out.
  """
  mine = [n for n in values if (n.task, n.query) == (task, query)]
  held = {(n.editor, n.metric): n for n in mine}
  metrics = [m for m in (*COLUMNS, *TOKENS, *FREE) if any(m in k for k in held)]
  editors = list(dict.fromkeys(n.editor for n in mine))
  if not metrics:
    return ""
  lines = [
    (editor, [cell(held.get((editor, metric))) for metric in metrics])
    for editor in editors
  ]
  counts = [max(n.records for n in mine if n.metric == m) for m in metrics]
  return table("editor", metrics, [*lines, ("records", map(str, counts))])


def compared(
  runs: Sequence[Run],
  pairs: Sequence[tuple[str, ...]],
  metrics: Sequence[str] = COLUMNS[:-1],
) -> list[Difference]:
  """Differences of pairs of editors, wherever both were measured."""
  found = []
  for first, second in pairs:
    mine = [run for run in runs if run.editor == first]
    others = [run for run in runs if run.editor == second]
    if not mine or not others:
      continue
    for place in dict.fromkeys(p for r in mine for p in r.records):
      for metric in metrics:
        each = difference(mine, others, place, metric)
        if each is not None:
          found.append(each)
  return found


def as_published(
  runs: Sequence[Run], pairs: Sequence[tuple[str, ...]]
) -> list[Difference]:
  """Differences as the paper asks, an instruction in the first's questions.

  Args:
    runs: of questions with it and without.
    pairs: (asked with the instruction, asked without).
  """
  found = []
  for told, plain in pairs:
    both = [_asked(r, INSTRUCTED) for r in runs if r.editor == told]
    both += [_asked(r, BARE) for r in runs if r.editor == plain]
    found += compared(both, [(told, plain)])
  return found


def _asked(run: Run, query: str) -> Run:
  """A run's records of one query style, as those of the paper's protocol."""
  records = {
    (task, AS_PUBLISHED): rows
    for (task, asked), rows in run.records.items()
    if asked == query
  }
  return dataclasses.replace(run, records=records)


def difference_table(differences: Sequence[Difference]) -> str:
  """One line a task, query style and pair; percentage points."""
  held: dict[str, dict[str, str]] = {}
  for each in differences:
    head = f"{each.task}, {each.query}: {each.editor} - {each.other}"
    held.setdefault(head, {})[each.metric] = str(each)
  metrics = metric_order(each.metric for each in differences)
  lines = [
    (head, [cells.get(metric, "") for metric in metrics])
    for head, cells in held.items()
  ]
  note = "Same records and seeds; percentage points with 95 % intervals.\n\n"
  return note + table("difference", metrics, lines)


def bar_rows(values: Sequence[Number]) -> list[dict]:
  """The main columns as rows of a bar chart."""
  return [
    bar_row(n)
    for n in values
    if n.metric in COLUMNS[:-1] and n.task != ALL_TASKS
  ]


if __name__ == "__main__":
  start(NAME, run)
