"""Table 5: what the data holds. No model is needed.

python -m instructedit_jax.experiments.statistics \
  --config=configs/paper/statistics.py --data=DIR --out=results/statistics
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from instructedit_jax.errors import UserError
from instructedit_jax.evaluation.chunks import write_json
from instructedit_jax.evaluation.protocol import data_stamp
from instructedit_jax.experiments.setup import Setup, start
from instructedit_jax.experiments.writing import table
from instructedit_jax.files import atomic_write
from instructedit_jax.tasks.record import Record
from instructedit_jax.tasks.splits import find_file, load_split

NAME = "statistics"
SPLITS = ("train", "test")


def run(setup: Setup) -> None:
  """Counts everything and writes the tables."""
  counts: dict[str, dict[str, Any]] = {}
  missing: dict[str, str] = {}
  records: dict[tuple[str, str], list[Record]] = {}
  for task in setup.tasks:
    for split in SPLITS:
      name = f"{task}, {split}"
      try:
        mine, report = load_split(setup.data, task, split)
      except UserError as error:
        missing[name] = str(error)
        continue
      records[task, split] = mine
      counts[name] = {
        **counted(mine),
        "read": report.read,
        "dropped": dict(report.dropped_records),
        "dropped probes": dict(report.dropped_probes),
        **data_stamp(find_file(setup.data, task, split), split, mine),
      }
  if not counts:
    raise UserError(next(iter(missing.values())))
  shared = overlaps(records)
  parts = [
    "# Table 5: the data",
    _table(counts),
    "Words are separated by blanks. A record that lacks a kind counts 0 of it.",
    "## Kinds of probes\n\n" + _kinds(counts),
    "## Common to train and test\n\n"
    + table(
      "task",
      ["subjects", "prompts"],
      [(t, [str(each["subjects"]), str(each["prompts"])])
       for t, each in shared.items()],
    ),
  ]  # fmt: skip
  if missing:
    listed = "\n".join(f"- {name}: {why}" for name, why in missing.items())
    parts.append(f"## Not there\n\n{listed}")
  parts.append(f"## Protocol\n\n- command: `{setup.command}`")
  with atomic_write(setup.out / "table.md") as path:
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
  write_json(setup.out / "numbers.json", {"data": counts, "common": shared})
  write_json(
    setup.out / "protocol.json",
    {
      "experiment": NAME,
      "command": setup.command,
      "config": json.loads(setup.config.to_json_best_effort()),
      "files": {
        name: {k: each[k] for k in ("file", "sha256")}
        for name, each in counts.items()
      },
    },
  )


def counted(records: Sequence[Record]) -> dict[str, Any]:
  """Counts and means of one split."""

  def words(texts: Sequence[str]) -> float:
    return round(float(np.mean([len(t.split()) for t in texts])), 2)

  kinds: dict[str, dict[str, int]] = {"locality": {}, "portability": {}}
  for record in records:
    for name, held in kinds.items():
      for probe in getattr(record, name):
        held[probe.kind] = held.get(probe.kind, 0) + 1
  talks = [r.conversation for r in records if r.conversation is not None]
  return {
    "records": len(records),
    "subjects": len({r.subject for r in records}),
    "words of a prompt": words([r.prompt for r in records]),
    "words of a target": words([r.target for r in records]),
    "rephrases": sum(len(r.rephrases) for r in records),
    "locality": kinds["locality"],
    "portability": kinds["portability"],
    "replies": sum(len(t.positive) + len(t.negative) for t in talks),
    "wanted positive": sum(t.wanted == "positive" for t in talks),
  }


def overlaps(
  records: dict[tuple[str, str], list[Record]],
) -> dict[str, dict[str, int]]:
  """task -> how many test subjects and prompts training has, too."""
  found = {}
  for task in dict.fromkeys(task for task, _ in records):
    if any((task, split) not in records for split in SPLITS):
      continue
    train, test = (records[task, split] for split in SPLITS)
    found[task] = {
      "subjects": len({r.subject for r in train} & {r.subject for r in test}),
      "prompts": len({r.prompt for r in train} & {r.prompt for r in test}),
    }
  return found


def _table(counts: dict[str, dict[str, Any]]) -> str:
  plain = (
    *("records", "subjects", "words of a prompt", "words of a target"),
    *("rephrases", "replies"),
  )
  lines = []
  for name, each in counts.items():
    probes = [sum(each[k].values()) for k in ("locality", "portability")]
    dropped = sum(each["dropped"].values())
    cells = [*(each[k] for k in plain), *probes, dropped, each["file"]]
    lines.append((name, list(map(str, cells))))
  heads = [*plain, "locality", "portability", "dropped records", "file"]
  return table("task, split", heads, lines)


def _kinds(counts: dict[str, dict[str, Any]]) -> str:
  lines = []
  for name, each in counts.items():
    cells = [
      ", ".join(f"{k} {n}" for k, n in sorted(each[field].items())) or "–"
      for field in ("locality", "portability")
    ]
    lines.append((name, cells))
  return table("task, split", ["locality", "portability"], lines)


if __name__ == "__main__":
  start(NAME, run)
