"""Differences between editors on the same records, with intervals.

Axes: S resamples, R runs, N records.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from instructedit_jax.reports.resampling import over_runs
from instructedit_jax.reports.runs import Place, Run

_LEVEL, _RESAMPLES = 0.95, 1000


@dataclasses.dataclass(frozen=True)
class Difference:
  """How much more `editor` has of a metric than `other`.

  Attributes:
    task, query, metric, editor, other: what it is of.
    value: mean over runs and records, in the metric's unit.
    low, high: 95 % bootstrap interval over records and runs.
    records: that both have.
  """

  task: str
  query: str
  metric: str
  editor: str
  other: str
  value: float
  low: float
  high: float
  records: int

  @property
  def verdict(self) -> str:
    """ "more", "less", or "same" where the interval holds 0."""
    if self.low > 0:
      return "more"
    return "less" if self.high < 0 else "same"

  def __str__(self) -> str:
    return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def difference(
  runs: Sequence[Run],
  others: Sequence[Run],
  place: Place,
  metric: str,
  seed: int = 0,
) -> Difference | None:
  """The difference of two editors' means; None if they share no record.

  The same records are drawn for both. Runs of the same seed go together, and
  seeds that only one has are left out; where there is no such pair, as of an
  editor that is not trained, each draws its own runs.
  """
  tables = [_scores(each, place, metric) for each in (runs, others)]
  shared = [s for s in tables[0] if isinstance(s, int) and s in tables[1]]
  if shared:
    tables = [{s: table[s] for s in shared} for table in tables]
  rows = [list(table.values()) for table in tables]
  if not all(rows):
    return None
  alike = set.intersection(*(set(row) for each in rows for row in each))
  common = [id_ for id_ in rows[0][0] if id_ in alike]
  if not common:
    return None
  a, b = (np.array([[row[i] for i in common] for row in each]) for each in rows)
  rng = np.random.default_rng(seed)
  count = len(common)
  drawn = rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES) / count
  draws = (
    over_runs(drawn @ a.T - drawn @ b.T)
    if len(shared) == len(a) or len(a) == len(b) == 1
    else over_runs(drawn @ a.T) - over_runs(drawn @ b.T, seed=1)
  )
  tail = (1 - _LEVEL) / 2
  low, high = np.quantile(draws, [tail, 1 - tail])
  return Difference(
    *(place[0], place[1], metric, runs[0].editor, others[0].editor),
    *(float(a.mean() - b.mean()), float(low), float(high), count),
  )


def _scores(
  runs: Sequence[Run], place: Place, metric: str
) -> dict[Any, dict[str, float]]:
  """id -> score, by the run's seed; runs without any are left out."""
  found: dict[Any, dict[str, float]] = {}
  for number, run in enumerate(runs):
    scores = {
      record["id"]: record["scores"][metric]
      for record in run.records.get(place, ())
      if record["scores"].get(metric) is not None
    }
    if scores:
      found[f"run {number}" if run.seed is None else run.seed] = scores
  return found
