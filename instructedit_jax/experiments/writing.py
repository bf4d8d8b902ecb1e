"""What an experiment leaves in its folder.

table.md for people, numbers.json for programs, protocol.json with the command
and everything the numbers depend on; pictures are beside them.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from instructedit_jax.columns import markdown_table
from instructedit_jax.evaluation.chunks import write_json
from instructedit_jax.experiments.setup import Setup
from instructedit_jax.files import atomic_write
from instructedit_jax.reports.aggregate import Number
from instructedit_jax.reports.runs import Run
from instructedit_jax.reports.tables import shown

# Of a protocol stamp: what belongs to an evaluation and not to all of them.
_OWN = ("editor", "data", "query")


def table(corner: str, heads: Sequence[str], lines: Iterable[Any]) -> str:
  """A Markdown table with aligned columns.

  Args:
    corner: head of the first column.
    heads: of the others.
    lines: (head, cells), as many cells as heads.
  """
  rows = [[corner, *heads], *([head, *cells] for head, cells in lines)]
  return markdown_table(rows)


def cell(number: Number | None) -> str:
  """A value with its interval; "" where there is none."""
  return "" if number is None else " ".join(shown(number))


def bar_row(number: Number, **changes: str) -> dict[str, Any]:
  """A number as a row of `figures.bars`.

  Args:
    number: the value with its interval.
    changes: what the row says otherwise, such as editor="untold".
  """
  names = {k: getattr(number, k) for k in ("task", "editor", "query", "metric")}
  values = {k: getattr(number, k) for k in ("value", "low", "high")}
  return {**names, **values, "n": number.records, **changes}


def write(
  setup: Setup,
  title: str,
  sections: Mapping[str, str],
  numbers: Mapping[str, Any],
  runs: Mapping[str, Sequence[Run]],
  failed: Mapping[str, str],
) -> None:
  """Writes table.md, numbers.json and protocol.json.

  Args:
    setup: the experiment.
    title: of the page.
    sections: heading -> Markdown.
    numbers: plain values, or lists of dataclasses.
    runs: by what they were evaluated for.
    failed: what could not be trained or evaluated, and why.
  """
  parts = [f"# {title}"]
  parts += [f"## {heading}\n\n{text}" for heading, text in sections.items()]
  if failed:
    listed = "\n".join(f"- {name}: {why}" for name, why in failed.items())
    parts.append(f"## Failed\n\n{listed}")
  parts.append(f"## Protocol\n\n{_protocol_text(setup, runs)}")
  with atomic_write(setup.out / "table.md") as path:
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
  write_json(setup.out / "numbers.json", jsonable(numbers))
  write_json(setup.out / "protocol.json", protocol(setup, runs, failed))


def jsonable(numbers: Any) -> Any:
  """Dataclasses as dicts; and None for NaN, which JSON has no word for."""
  return json.loads(
    json.dumps(numbers, default=dataclasses.asdict),
    parse_constant=lambda _: None,
  )


def protocol(
  setup: Setup, runs: Mapping[str, Sequence[Run]], failed: Mapping[str, str]
) -> dict[str, Any]:
  """The command and what all numbers depend on; nothing is said twice."""
  common: list[Any] = []
  editors: dict[str, list[Any]] = {}
  data: dict[str, Any] = {}
  evaluations = []
  for part, each in runs.items():
    for run in each:
      for (task, query), stamp in run.stamps.items():
        rest = {k: v for k, v in stamp.items() if k not in _OWN}
        if rest not in common:
          common.append(rest)
        mine = editors.setdefault(run.editor, [])
        if stamp.get("editor") not in mine:
          mine.append(stamp.get("editor"))
        data[task] = stamp.get("data")
        evaluations.append(
          {
            "part": part,
            "task": task,
            "query": query,
            "editor": run.editor,
            "editor_index": mine.index(stamp.get("editor")),
            "protocol": common.index(rest),
            "records": len(run.records[task, query]),
            "failed": run.failed[task, query],
          }
        )
  return {
    "experiment": setup.name,
    "command": setup.command,
    "config": json.loads(setup.config.to_json_best_effort()),
    "seeds": setup.seeds,
    "steps": setup.steps,
    "limit": setup.limit,
    "given": setup.given,
    "data": data,
    "protocols": common,
    "editors": editors,
    "evaluations": evaluations,
    "failed": failed,
  }


def _run_counts(runs: Mapping[str, Sequence[Run]]) -> list[int]:
  """How many runs each editor has in each part."""
  names = [[run.editor for run in each] for each in runs.values()]
  return [count for each in names for count in Counter(each).values()]


def _protocol_text(setup: Setup, runs: Mapping[str, Sequence[Run]]) -> str:
  lines = [f"- command: `{setup.command}`" if setup.command else ""]
  stamps = [s for each in runs.values() for r in each for s in r.stamps.items()]
  for (task, _), stamp in stamps:
    held = stamp.get("data") or {}
    lines.append(
      f"- {task}: first {held.get('records')} records of {held.get('file')}"
      f" (sha256 {str(held.get('sha256'))[:16]})"
    )
  for _, stamp in stamps[:1]:
    model = stamp["model"]
    lines.append(
      f"- model: {model['name']}, {model['dtype']}, fingerprint"
      f" {model['fingerprint'][:16]}; JAX {stamp['versions']['jax']} on"
      f" {stamp['device']}"
    )
    options = stamp["options"]
    lines.append(f"- a value is the {options['aggregation']}")
    if any(count > 1 for count in _run_counts(runs)):
      lines.append("- of several runs: over records and runs")
    lines.append(f"- teacher-forced: {options['teacher_forced']}")
    lines.append(f"- instructed queries: {options['instructed_queries']}")
  failures = sum(
    len(rows) for e in runs.values() for r in e for rows in r.failed.values()
  )
  lines.append(
    f"- {failures} evaluations of records failed; these, the options and the"
    " editors' digests are in protocol.json"
  )
  return "\n".join(dict.fromkeys(line for line in lines if line))
