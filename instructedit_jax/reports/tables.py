"""Tables: what they say, apart from the language they are written in."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal

from instructedit_jax.reports.aggregate import (
  ALL_TASKS,
  HARMONIC,
  HARMONIC_OF,
  Number,
  metric_order,
  query_order,
)

Mark = Literal["best", "near", ""]
LEGEND = (
  "Bold is the best value of a row; italics are those that cannot be told from"
  " it, as the interval of one covers the value of the other. The unedited"
  " model is left out of the comparison."
)
OVERVIEW = (
  f"Harmonic mean of {', '.join(HARMONIC_OF)}, of those that a task has;"
  f" {ALL_TASKS!r} is the mean over tasks."
)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A number and how it compares with its row."""

  number: Number
  mark: Mark


@dataclasses.dataclass(frozen=True)
class Line:
  """One row: what it is of, and a cell for each column, None where absent."""

  heads: tuple[str, str]
  cells: tuple[Cell | None, ...]

  @property
  def records(self) -> str:
    """How many records its cells rest on: "100", or "94–100"."""
    counts = sorted({c.number.records for c in self.cells if c is not None})
    return "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))


@dataclasses.dataclass(frozen=True)
class Table:
  """A table with editors as columns.

  Attributes:
    title, caption: plain text.
    heads: of the two columns that say what a row is of.
    columns: editors.
    lines: rows.
  """

  title: str
  caption: str
  heads: tuple[str, str]
  columns: tuple[str, ...]
  lines: tuple[Line, ...]


def tables(
  numbers: Sequence[Number], unedited: Collection[str] = ()
) -> list[Table]:
  """The overview, then a table for each task.

  Args:
    numbers: of `aggregate.numbers`.
    unedited: editors that no value is compared with.
  """
  editors = tuple(dict.fromkeys(number.editor for number in numbers))
  held = {(n.task, n.query, n.metric, n.editor): n for n in numbers}
  queries = query_order(number.query for number in numbers)
  tasks = list(dict.fromkeys(n.task for n in numbers if n.task != ALL_TASKS))
  metrics = metric_order(n.metric for n in numbers if n.metric != HARMONIC)

  def line(heads: tuple[str, str], place: tuple[str, str, str]) -> Line | None:
    found = [held.get((*place, editor)) for editor in editors]
    if not any(found):
      return None
    return Line(heads, _marked(found, unedited))

  def table(
    title: str, caption: str, heads: tuple[str, str], lines: list[Line | None]
  ) -> list[Table]:
    kept = tuple(each for each in lines if each is not None)
    return [Table(title, caption, heads, editors, kept)] if kept else []

  found = table(
    "Overview",
    OVERVIEW,
    ("task", "query"),
    [
      line((task, query), (task, query, HARMONIC))
      for task in [*tasks, ALL_TASKS]
      for query in queries
    ],
  )
  for task in tasks:
    found += table(
      task,
      "",
      ("query", "metric"),
      [
        line((query, metric), (task, query, metric))
        for query in queries
        for metric in metrics
      ],
    )
  return found


def lower_is_better(metric: str) -> bool:
  """Whether a small value of a metric is a good one."""
  return metric.endswith("_kl")


def digits(metric: str) -> int:
  """Decimals worth showing."""
  return 3 if metric.endswith("_kl") else 1


def shown(number: Number) -> tuple[str, str]:
  """Value and interval as text."""
  places = digits(number.metric)
  value, low, high = (
    f"{v:.{places}f}" for v in (number.value, number.low, number.high)
  )
  return value, f"[{low}, {high}]"


def _marked(
  found: Sequence[Number | None], unedited: Collection[str]
) -> tuple[Cell | None, ...]:
  rivals = [n for n in found if n is not None and n.editor not in unedited]
  if len(rivals) < 2:
    return tuple(None if n is None else Cell(n, "") for n in found)
  metric = rivals[0].metric
  sign = -1 if lower_is_better(metric) else 1
  best = max(rivals, key=lambda n: sign * n.value)
  # Equal as printed is equal: a rounding is no victory.
  top = shown(best)[0]

  def mark(number: Number) -> Mark:
    if number.editor in unedited:
      return ""
    if shown(number)[0] == top:
      return "best"
    near = (
      best.low <= number.value <= best.high
      or number.low <= best.value <= number.high
    )
    return "near" if near else ""

  return tuple(None if n is None else Cell(n, mark(n)) for n in found)
