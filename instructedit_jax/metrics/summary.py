"""From scores of items to one number with an interval.

Items are averaged within their kind, kinds within the record, records over all
that have any; so a record with many probes of one kind counts no more than
another.
"""

from collections.abc import Iterable, Sequence

import numpy as np

RULE = (
  "mean over items of a kind, mean over kinds of a record, mean over records"
  " that have any; 95 % percentile bootstrap over records"
)
_CHUNK = 1 << 22  # numbers drawn at once


def record_mean(scores: Iterable[tuple[str, float]]) -> float | None:
  """Mean over kinds of the mean of each kind's scores; None without scores.

  Args:
    scores: (kind, score) pairs.
  """
  kinds: dict[str, list[float]] = {}
  for kind, score in scores:
    kinds.setdefault(kind, []).append(score)
  if not kinds:
    return None
  return float(np.mean([np.mean(values) for values in kinds.values()]))


def interval(
  values: Sequence[float],
  *,
  resamples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> tuple[float, float]:
  """Percentile bootstrap interval of the mean of `values`.

  Args:
    values: one number a record.
    resamples: how many times as many records are drawn with replacement.
    seed: the same one draws the same records for all metrics.
    level: the interval's nominal coverage.

  Returns:
    its low and its high end.

  Raises:
    ValueError: there is no value.
  """
  data = np.asarray(values, np.float64)
  if not data.size:
    raise ValueError("the mean of no values has no interval")
  rng = np.random.default_rng(seed)
  rows = max(1, _CHUNK // data.size)
  means = []
  for start in range(0, resamples, rows):
    size = (min(rows, resamples - start), data.size)
    means.append(data[rng.integers(data.size, size=size)].mean(1))
  tail = (1 - level) / 2
  low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
  return float(low), float(high)
