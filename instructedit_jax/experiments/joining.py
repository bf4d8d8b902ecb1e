"""Several ways to evaluate an editor, summed up as one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from instructedit_jax.reports.runs import Place, Run


def by_seed(runs: Sequence[Run]) -> list[Run]:
  """One run for each editor and seed: every record's mean over the ways.

  Descriptions that one editor was told are no new trainings of it: to count
  them as runs would hide how far seeds differ.
  """
  held: dict[Any, list[Run]] = {}
  for run in runs:
    held.setdefault((run.editor, run.identity), []).append(run)
  return [
    dataclasses.replace(
      mine[0],
      records={place: _means(mine, place) for place in mine[0].records},
    )
    for mine in held.values()
  ]


def of_condition(runs: Sequence[Run]) -> list[Run]:
  """`by_seed` where an editor has several seeds; else its ways as they are.

  With one seed, what there is to draw are the ways themselves. They are not
  seeds, so none of them belongs to one of another condition.
  """
  found: list[Run] = []
  for editor in dict.fromkeys(run.editor for run in runs):
    mine = [run for run in runs if run.editor == editor]
    joined = by_seed(mine)
    if len(joined) == 1 < len(mine):
      joined = [dataclasses.replace(run, seed=None) for run in mine]
    found += joined
  return found


def _means(runs: Sequence[Run], place: Place) -> list[dict[str, Any]]:
  """Records with their scores' means, over the runs that have them."""
  scores: dict[str, dict[str, list[float]]] = {}
  first: dict[str, dict[str, Any]] = {}
  for run in runs:
    for record in run.records.get(place, ()):
      first.setdefault(record["id"], record)
      mine = scores.setdefault(record["id"], {})
      for metric, value in record["scores"].items():
        if value is not None:
          mine.setdefault(metric, []).append(value)
  return [
    {
      **first[id_],
      "scores": {name: sum(v) / len(v) for name, v in mine.items()},
    }
    for id_, mine in scores.items()
  ]
