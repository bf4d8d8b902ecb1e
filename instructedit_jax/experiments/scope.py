"""Is an instruction that says how far an edit reaches obeyed?

python -m instructedit_jax.experiments.scope --config=configs/paper/scope.py \
  --data=DIR --out=results/scope \
  --editors=instructedit_scoped=DIR0,mend_scoped=DIR1

Every record is edited under sentences that mean it for every wording of its
question and under such that mean it for its own words alone, none of which was
trained with. Questions are bare: the scope shows in the weights or not at all.
The request is the same for both, so an editor that does not read does one thing
in both cases.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from instructedit_jax import figures
from instructedit_jax.evaluation.items import GENERALIZATION
from instructedit_jax.experiments.entrants import Entrant, entrants
from instructedit_jax.experiments.joining import by_seed, of_condition
from instructedit_jax.experiments.measuring import Measuring, Way
from instructedit_jax.experiments.setup import Setup, start
from instructedit_jax.experiments.table3 import compared, difference_table
from instructedit_jax.experiments.writing import bar_row, cell, table, write
from instructedit_jax.metrics import summary
from instructedit_jax.reports.aggregate import Number, numbers
from instructedit_jax.reports.runs import Run
from instructedit_jax.tasks import scopes

NAME = "scope"
BARE = "bare"
FOLLOWED, KEPT = "generalization_em", "generalization_kept"
HEEDED, OBEYED = "heeded", "obeyed"
RELIABILITY, LOCALITY = "reliability_em", "locality_token"
COLUMNS = (RELIABILITY, FOLLOWED, KEPT, HEEDED, OBEYED, LOCALITY)
ABOUT = (
  "Percent of a record's rephrases: `generalization_em`, the new answer is"
  " given; `generalization_kept`, the likeliest tokens are all those of the"
  " unedited model; `heeded`, the new answer is given under a wide scope and is"
  " not under a verbatim one; `obeyed`, as `heeded`, but a verbatim scope asks"
  " that the unedited model's answer is kept. Both times `reliability_em`, as"
  " an edit that did not take obeys nothing. `unsaid` states no scope."
)
OF_BOTH = (
  "The mean of both scopes. An editor that does not read has half of its"
  " reliability as `heeded`.\n\n"
)
UNSAID = "unsaid"


def run(setup: Setup) -> None:
  """Evaluates every editor under every scope and writes the tables."""
  found, failed = entrants(setup)
  measuring = Measuring(setup)
  runs = {UNSAID: _marked(measuring(found, Way("held_out:0")), UNSAID)}
  for scope in scopes.SENTENCES:
    ways = [
      Way(f"held_out:0+{scope}:{k}") for k in range(setup.config.sentences)
    ]
    each = [r for way in ways for r in measuring(found, way)]
    runs[scope] = _marked(each, scope)
  values = {s: numbers(of_condition(each)) for s, each in runs.items()}
  sections = {"What is asked": ABOUT}
  for task in setup.tasks:
    sections[task] = task_table(found, values, task)
  # Of both scopes together, against the reference editor's.
  both = by_seed([*runs[scopes.WIDE], *runs[scopes.VERBATIM]])
  reference = setup.config.reference
  pairs = [(e.name, reference) for e in found if e.name != reference]
  differences = compared(both, pairs, (HEEDED, OBEYED))
  sections["Differences"] = OF_BOTH + difference_table(differences)
  write(
    setup,
    f"How far an edit reaches, {setup.config.model}",
    sections,
    {"numbers": values, "differences": differences},
    runs,
    failed | measuring.failed,
  )
  rows = [
    bar_row(n, query=scope)
    for scope, each in values.items()
    for n in each
    if n.metric == OBEYED
  ]
  if rows:  # tasks without rephrases have none
    title = "Obeyed scopes, bare questions, percent"
    figures.bars(rows, setup.out / "figure.png", title)


def kept(record: Mapping[str, Any]) -> float | None:
  """Percent of a record's rephrases answered as before; None without any."""
  same = [
    (item["kind"], float(item["before"] == item["after"]))
    for item in record["items"]
    if item["metric"] == GENERALIZATION
  ]
  mean = summary.record_mean(same)
  return None if mean is None else 100 * mean


def scored(record: Mapping[str, Any], scope: str) -> dict[str, Any]:
  """A record with the scores of this experiment, where it has rephrases."""
  scores = dict(record["scores"])
  unchanged = kept(record)
  if unchanged is not None:
    scores[KEPT] = unchanged
    if scope != UNSAID:
      wide, followed = scope == scopes.WIDE, scores[FOLLOWED]
      taken = scores[RELIABILITY] / 100
      scores[HEEDED] = taken * (followed if wide else 100 - followed)
      scores[OBEYED] = taken * (followed if wide else unchanged)
  return {**record, "scores": scores}


def _marked(runs: Sequence[Run], scope: str) -> list[Run]:
  return [
    dataclasses.replace(
      run,
      records={
        place: [scored(record, scope) for record in records]
        for place, records in run.records.items()
      },
    )
    for run in runs
  ]


def task_table(
  found: Sequence[Entrant],
  values: Mapping[str, Sequence[Number]],
  task: str,
) -> str:
  """Editors under each scope as lines."""
  held = {
    (scope, n.editor, n.metric): n
    for scope, each in values.items()
    for n in each
    if n.task == task
  }
  return table(
    "editor, scope",
    COLUMNS,
    [
      (
        f"{entrant.name}, {scope}",
        [cell(held.get((scope, entrant.name, metric))) for metric in COLUMNS],
      )
      for entrant in found
      for scope in values
    ],
  )


if __name__ == "__main__":
  start(NAME, run)
