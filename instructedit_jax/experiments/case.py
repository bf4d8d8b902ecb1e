"""Appendix C: what edited models say, record by record.

python -m instructedit_jax.experiments.case --config=configs/paper/case.py \
  --data=DIR --out=results/case --editors=mend=DIR0,instructedit=DIR1

The first records of each task, not chosen by how they come out. OUT gets
table.md, with the answers of all editors to the same questions, and
report.html, where every record can be browsed.
"""

from collections.abc import Sequence
from typing import Any

from instructedit_jax.experiments.entrants import entrants
from instructedit_jax.experiments.measuring import Measuring, Way
from instructedit_jax.experiments.setup import Setup, start
from instructedit_jax.experiments.writing import table, write
from instructedit_jax.reports import build
from instructedit_jax.reports.aggregate import numbers
from instructedit_jax.reports.build import Settings
from instructedit_jax.reports.runs import Run
from instructedit_jax.reports.written import md_text

NAME = "case"
_KINDS = ("reliability", "generalization", "portability", "locality")


def run(setup: Setup) -> None:
  """Evaluates with free answers and writes them down."""
  found, failed = entrants(setup)
  measuring = Measuring(setup)
  way = Way(setup.config.instruction, tuple(setup.config.queries))
  runs = measuring(found, way)
  sections = {}
  for task in setup.tasks:
    for query in way.queries:
      for head, text in answers(runs, task, query).items():
        sections[head] = text
  write(
    setup,
    f"Cases, {setup.config.model}",
    sections,
    {"numbers": numbers(runs)},
    {NAME: runs},
    failed | measuring.failed,
  )
  build(
    Settings(
      folders=list(measuring.folders),
      names=measuring.folders,
      out=setup.out,
      title=f"Cases, {setup.config.model}",
      command=setup.command,
    )
  )


def answers(runs: Sequence[Run], task: str, query: str) -> dict[str, str]:
  """heading -> questions as lines, editors' answers as columns."""
  mine = [run for run in runs if run.records.get((task, query))]
  names = [
    run.editor
    if [other.editor for other in mine].count(run.editor) == 1
    else f"{run.editor}, {number}"
    for number, run in enumerate(mine)
  ]
  held = [
    {record["id"]: record for record in run.records[task, query]}
    for run in mine
  ]
  found = {}
  for id_ in dict.fromkeys(id_ for each in held for id_ in each):
    first = next(each[id_] for each in held if id_ in each)
    head = f"{id_}, {query}: {first['prompt']} → {first['target']}"
    lines = []
    for number, item in enumerate(first["items"]):
      if item["metric"] not in _KINDS:
        continue
      cells = [md_text(", ".join(item["answers"][:2])), _said(item, "before")]
      cells += [
        _said(each[id_]["items"][number], "after") if id_ in each else ""
        for each in held
      ]
      kind = f"{item['metric']}: {_end(item['prompt'])}"
      lines.append((md_text(kind), cells))
    found[head] = table("question", ["answer", "before", *names], lines)
  return found


def _said(item: dict[str, Any], when: str) -> str:
  """The free answer; where there is none, the likeliest tokens."""
  free = item.get(f"free_{when}")
  return md_text(free) if free is not None else f"_{md_text(item[when])}_"


def _end(text: str, size: int = 80) -> str:
  return text if len(text) <= size else "…" + text[1 - size :]


if __name__ == "__main__":
  start(NAME, run)
