"""From records of one or several runs to numbers with intervals.

A number is the mean over runs of the mean over records. With one run its
interval is the bootstrap over records that the evaluation itself reports. With
several, records and runs are both drawn with replacement, runs last: a run is
good or bad in all metrics and tasks together.

Axes: S resamples, R runs, N records.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from instructedit_jax.evaluation.options import QUERIES
from instructedit_jax.evaluation.scores import FLUENCY, METRICS
from instructedit_jax.metrics import summary
from instructedit_jax.reports.resampling import over_runs
from instructedit_jax.reports.runs import Place, Run

HARMONIC = "harmonic_mean"
HARMONIC_OF = ("reliability_em", "generalization_em", "locality_token")
ALL_TASKS = "all tasks"
_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Number:
  """One number of the report.

  Attributes:
    task, query, editor, metric: what it is of.
    value: mean over runs of the mean over records, in the metric's unit.
    low, high: 95 % bootstrap interval.
    records: distinct ones that have it.
    runs: each run's own mean.
  """

  task: str
  query: str
  editor: str
  metric: str
  value: float
  low: float
  high: float
  records: int
  runs: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class _Sample:
  """What a number is made of.

  Attributes:
    means: [S, R], each run's mean over the records of a draw.
    runs: each run's own mean.
    records: distinct ones.
    top: no value lies above it, nor below 0; None where there is no such end.
  """

  means: np.ndarray
  runs: tuple[float, ...]
  records: int
  top: float | None = None

  @property
  def value(self) -> float:
    return float(np.mean(self.runs))

  @property
  def draws(self) -> np.ndarray:
    """[S], over records and runs."""
    found = over_runs(self.means)
    # Widened runs may stray to where no value can be.
    return found if self.top is None else np.clip(found, 0.0, self.top)

  def joined(self) -> "_Sample":
    """The same value and draws, as of one run."""
    return dataclasses.replace(
      self, means=self.draws[:, None], runs=(self.value,)
    )

  def number(self, place: Place, editor: str, metric: str) -> Number:
    tail = (1 - _LEVEL) / 2
    low, high = np.nanquantile(self.draws, [tail, 1 - tail])
    task, query = place
    return Number(
      *(task, query, editor, metric),
      *(self.value, float(low), float(high)),
      self.records,
      self.runs,
    )


def metric_order(metrics: Iterable[str]) -> list[str]:
  """Metrics as tables show them; unknown ones last."""
  names = dict.fromkeys(metrics)
  known = [name for name in METRICS if name in names]
  return known + [name for name in names if name not in METRICS]


def query_order(queries: Iterable[str]) -> list[str]:
  """Plain questions first."""
  names = dict.fromkeys(queries)
  known = [name for name in QUERIES if name in names]
  return known + [name for name in names if name not in QUERIES]


def numbers(runs: Sequence[Run]) -> list[Number]:
  """Every number that the runs' records give, harmonic means included."""
  by_editor: dict[str, list[Run]] = {}
  for run in runs:
    by_editor.setdefault(run.editor, []).append(run)
  tasks = dict.fromkeys(task for run in runs for task, _ in run.stamps)
  found = []
  for editor, mine in by_editor.items():
    harmonics: dict[Place, _Sample] = {}
    for place in dict.fromkeys(place for run in mine for place in run.stamps):
      held = [run for run in mine if run.records.get(place)]
      if held:
        cell, harmonic = _cell(editor, place, held)
        found += cell
        if harmonic is not None:
          harmonics[place] = harmonic
    found += _overall(editor, list(tasks), harmonics)
  return found


def _cell(
  editor: str, place: Place, runs: Sequence[Run]
) -> tuple[list[Number], _Sample | None]:
  """All metrics of one task, query style and editor."""
  scores = [
    {record["id"]: record["scores"] for record in run.records[place]}
    for run in runs
  ]
  ids = list(dict.fromkeys(id_ for each in scores for id_ in each))
  seed, resamples = _bootstrap_of(runs[0], place)
  names = metric_order(
    name for each in scores for record in each.values() for name in record
  )
  samples: dict[str, _Sample] = {}
  found = []
  for metric in names:
    values = _matrix(scores, ids, metric)
    values = values[~np.isnan(values).all(1)]
    if not values.size:
      continue
    sample = _sample(values, seed, resamples)
    sample = dataclasses.replace(sample, top=_top(metric, values))
    if len(values) == 1:
      # The very interval that the evaluation's own summary has.
      flat = values[0][~np.isnan(values[0])].tolist()
      low, high = summary.interval(flat, resamples=resamples, seed=seed)
      task, query = place
      number = Number(
        *(task, query, editor, metric, sample.value, low, high),
        sample.records,
        sample.runs,
      )
    else:
      number = sample.number(place, editor, metric)
    samples[metric] = sample
    found.append(number)
  parts = [samples[name] for name in HARMONIC_OF if name in samples]
  same = {len(part.runs) for part in parts}
  if len(parts) < 2 or len(same) > 1:
    return found, None
  harmonic = _harmonic(parts)
  return [*found, harmonic.number(place, editor, HARMONIC)], harmonic


def _top(metric: str, values: np.ndarray) -> float | None:
  if np.nanmin(values) < 0:
    return None
  percent = metric != FLUENCY and not metric.endswith("_kl")
  return 100.0 if percent and np.nanmax(values) <= 100 else np.inf


def _bootstrap_of(run: Run, place: Place) -> tuple[int, int]:
  options = run.stamps[place].get("options") or {}
  seed, resamples = options.get("seed", 0), options.get("resamples", 1000)
  return int(seed), max(int(resamples), 1)


def _matrix(
  scores: Sequence[Mapping[str, Mapping[str, float | None]]],
  ids: Sequence[str],
  metric: str,
) -> np.ndarray:
  """[R, N], NaN where a run's record lacks the metric."""
  values = np.full((len(scores), len(ids)), np.nan)
  for r, each in enumerate(scores):
    for n, id_ in enumerate(ids):
      value = each.get(id_, {}).get(metric)
      if value is not None:
        values[r, n] = value
  return values


def _sample(values: np.ndarray, seed: int, resamples: int) -> _Sample:
  """Draws of each run's mean over records, from values [R, N].

  The same seed draws the same records for every metric of a cell, so that
  draws of several metrics can be combined.
  """
  rng = np.random.default_rng(seed)
  count = values.shape[1]
  held = ~np.isnan(values)
  drawn = rng.multinomial(count, np.full(count, 1 / count), resamples)
  total = drawn @ np.where(held, values, 0.0).T
  weight = drawn @ held.T.astype(np.float64)
  means = np.full(total.shape, np.nan)  # [S, R]
  np.divide(total, weight, out=means, where=weight > 0)
  own = tuple(float(v) for v in np.nanmean(values, 1))
  return _Sample(means, own, int(held.any(0).sum()))


def _harmonic(parts: Sequence[_Sample]) -> _Sample:
  def mean(values: np.ndarray) -> np.ndarray:
    safe = np.maximum(values, 1e-12)
    found = len(values) / (1 / safe).sum(0)
    return np.where((values <= 0).any(0), 0.0, found)

  return _Sample(
    mean(np.stack([part.means for part in parts])),
    tuple(map(float, mean(np.array([part.runs for part in parts])))),
    max(part.records for part in parts),
    top=100.0,
  )


def _overall(
  editor: str, tasks: Sequence[str], harmonics: Mapping[Place, _Sample]
) -> list[Number]:
  """The mean over tasks, where an editor has all of them."""
  found: list[Number] = []
  if len(tasks) < 2:
    return found
  for query in query_order(query for _, query in harmonics):
    parts = [harmonics.get((task, query)) for task in tasks]
    held = [part for part in parts if part is not None]
    if len(held) < len(tasks):
      continue
    if len({len(part.runs) for part in held}) > 1:
      # Which run lacks a task is not known: each task draws its own.
      held = [part.joined() for part in held]
    rng = np.random.default_rng(0)
    size = min(len(part.means) for part in held)
    # Each task's records are its own: their draws are shuffled apart.
    orders = [rng.permutation(len(part.means))[:size] for part in held]
    means = [p.means[order] for p, order in zip(held, orders, strict=True)]
    whole = _Sample(
      np.mean(means, 0),
      tuple(map(float, np.mean([part.runs for part in held], 0))),
      sum(part.records for part in held),
      top=100.0,
    )
    found.append(whole.number((ALL_TASKS, query), editor, HARMONIC))
  return found
