"""Results: what came out, record by record, and its summary."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from instructedit_jax.evaluation.items import RELIABILITY
from instructedit_jax.evaluation.scores import METRICS
from instructedit_jax.metrics import summary


@dataclasses.dataclass(frozen=True)
class Row:
  """One number of a summary.

  Attributes:
    task, editor, query, metric: what it is of.
    value: mean over records, in the metric's unit.
    low, high: 95 % bootstrap interval.
    n: records that have it.
  """

  task: str
  editor: str
  query: str
  metric: str
  value: float
  low: float
  high: float
  n: int


@dataclasses.dataclass(frozen=True)
class RecordResult:
  """One record under one editor and query style.

  Attributes:
    id, task, prompt, target: the record's.
    instruction: the description that the editor was given; "" for none.
    scores: metric -> percent (kl: nats, fluency: 100 x bits).
    items: `scores.item_row` of every question.
    fluency_text: the text whose fluency was measured, if it was.
  """

  id: str
  task: str
  prompt: str
  target: str
  instruction: str
  scores: dict[str, float]
  items: list[dict[str, Any]]
  fluency_text: str | None = None

  @property
  def reliability(self) -> dict[str, Any]:
    """The item that asks the edited prompt itself."""
    return next(i for i in self.items if i["metric"] == RELIABILITY)


@dataclasses.dataclass
class Results:
  """All records under one editor and query style.

  Attributes:
    editor: its name; "base" for the unedited model.
    query: "bare" or "instructed".
    records: those that could be evaluated.
    failed: (id, reason) of the others.
    resamples, seed: of the intervals.
  """

  editor: str
  query: str
  records: list[RecordResult] = dataclasses.field(default_factory=list)
  failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  resamples: int = 1000
  seed: int = 0

  def rows(self) -> list[Row]:
    """The summary: a row for each task and metric that any record has."""
    return list(self._rows())

  def _rows(self) -> Iterator[Row]:
    for task in dict.fromkeys(record.task for record in self.records):
      mine = [record for record in self.records if record.task == task]
      for metric in METRICS:
        values = [r.scores[metric] for r in mine if metric in r.scores]
        if values:
          low, high = summary.interval(
            values, resamples=self.resamples, seed=self.seed
          )
          value = sum(values) / len(values)
          value, low, high = (round(x, 4) for x in (value, low, high))
          place = (task, self.editor, self.query, metric)
          yield Row(*place, value, low, high, len(values))

  def value(self, metric: str, task: str | None = None) -> float:
    """One number of the summary.

    Raises:
      KeyError: no record has it, or there are several tasks and none is named.
    """
    found = [
      row.value
      for row in self.rows()
      if row.metric == metric and task in (None, row.task)
    ]
    if len(found) != 1:
      raise KeyError(f"{metric}: {len(found)} tasks have it")
    return found[0]

  def to_dict(self) -> dict[str, Any]:
    """Plain values, for JSON; `from_dict` is its inverse."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, raw: Mapping[str, Any]) -> "Results":
    """What `to_dict` gave, also after a trip through JSON."""
    fields = dict(raw)
    fields["records"] = [RecordResult(**r) for r in raw["records"]]
    fields["failed"] = [(id_, reason) for id_, reason in raw["failed"]]
    return cls(**fields)


def merged_rows(results: Sequence[Results]) -> list[Row]:
  """The summaries of several results, one after the other."""
  return [row for result in results for row in result.rows()]
