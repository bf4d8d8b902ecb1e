"""Differences between editors on the same records, with intervals.

Axes: S resamples, R runs, N records.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

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

  The same records are drawn for both. Runs are drawn too: together where both
  have as many, as seeds go together, else each by itself.
  """
  tables = [_scores(each, place, metric) for each in (runs, others)]
  if not all(tables):
    return None
  common = [
    id_ for id_ in tables[0][0] if all(id_ in row for t in tables for row in t)
  ]
  if not common:
    return None
  a, b = (np.array([[row[i] for i in common] for row in t]) for t in tables)
  rng = np.random.default_rng(seed)
  count = len(common)
  drawn = rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES) / count
  draws = (
    _mean_of_runs(drawn @ a.T - drawn @ b.T, rng)
    if len(a) == len(b)
    else _mean_of_runs(drawn @ a.T, rng) - _mean_of_runs(drawn @ b.T, rng)
  )
  tail = (1 - _LEVEL) / 2
  low, high = np.quantile(draws, [tail, 1 - tail])
  return Difference(
    *(place[0], place[1], metric, runs[0].editor, others[0].editor),
    *(float(a.mean() - b.mean()), float(low), float(high), count),
  )


def _mean_of_runs(draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Means [S] over runs drawn from [S, R], widened as R from R vary less."""
  count = draws.shape[1]
  if count == 1:
    return draws[:, 0]
  center = draws.mean(1, keepdims=True)
  wide = (draws - center) * np.sqrt(count / (count - 1))
  chosen = rng.integers(count, size=draws.shape)
  return (center + np.take_along_axis(wide, chosen, 1)).mean(1)


def _scores(
  runs: Sequence[Run], place: Place, metric: str
) -> list[dict[str, Any]]:
  """id -> score, for each run that has the place."""
  return [
    {
      record["id"]: record["scores"][metric]
      for record in run.records[place]
      if record["scores"].get(metric) is not None
    }
    for run in runs
    if place in run.records
  ]
