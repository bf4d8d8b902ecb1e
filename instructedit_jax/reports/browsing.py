"""The records of a report, packed small for the page's script.

Texts are kept once in a list and named by their place in it; so are questions,
which many editors share. The whole is JSON, compressed and in base 64: eight
thousand evaluated records take a few megabytes.
"""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

from instructedit_jax.evaluation.items import ANSWERED, LOCALITY
from instructedit_jax.reports.runs import Run

# Bit of a metric in the masks of a row, by place in this list.
KINDS = (*ANSWERED[:2], LOCALITY, ANSWERED[2])
FAILED, ASKED, FREE_FAILED, FREE_ASKED = range(4)
_INPUT = "\nInput: "


class _Kept:
  """Values by their place in a list, each once."""

  def __init__(self):
    self.values: list[Any] = []
    self._places: dict[Any, int] = {}

  def __call__(self, value: Any) -> int:
    place = self._places.get(value)
    if place is None:
      place = self._places[value] = len(self.values)
      self.values.append(value)
    return place


def packed(runs: Sequence[Run]) -> dict[str, Any]:
  """Everything the page shows of records, as plain values.

  Returns:
    `strings`; `questions` [metric, kind, instruction, prompt, [answers]];
    `runs` [editor, name]; `rows` [task, id, prompt, target, instruction, run,
    query, masks, items, fluency text], items [question, before, after,
    log_p_before, log_p_after, em, token, free, kl, free_before, free_after];
    `failed` [task, id, run, query, reason]. Texts are places in `strings`,
    questions and runs places in their lists; -1 or None is nothing.
  """
  text, question = _Kept(), _Kept()
  rows, failed, names = [], [], []
  for r, run in enumerate(runs):
    alike = [other for other in runs if other.editor == run.editor]
    number = f"run {alike.index(run) + 1}: " if len(alike) > 1 else ""
    where = " + ".join(run.folders)
    names.append([text(run.editor), text(f"{number}{run.label} in {where}")])
    for (task, query), records in run.records.items():
      head = (text(task), text(query))
      rows += [_row(record, head, r, text, question) for record in records]
      failed += [
        [head[0], text(str(f.get("id", ""))), r, head[1], text(_reason(f))]
        for f in run.failed.get((task, query), ())
      ]
  return {
    "strings": text.values,
    "kinds": list(KINDS),
    "questions": [[*q[:4], list(q[4])] for q in question.values],
    "runs": names,
    "rows": rows,
    "failed": failed,
  }


def encoded(value: Mapping[str, Any]) -> str:
  """`packed` data as text that means nothing to HTML: gzip in base 64."""
  raw = json.dumps(value, separators=(",", ":"), allow_nan=False)
  # No time stamp inside: the same results make the same page.
  return base64.b64encode(gzip.compress(raw.encode(), 9, mtime=0)).decode()


def masks(scores: Mapping[str, float | None]) -> list[int]:
  """Four bit masks over KINDS: failed, asked, and the same for free answers.

  A kind failed unless every answer of it was exactly right; locality unless
  every answer stayed as it was.
  """
  found = [0, 0, 0, 0]
  for bit, kind in enumerate(KINDS):
    for offset, suffix in ((0, "em"), (2, "free")):
      value = scores.get(f"{kind}_{suffix}")
      if value is not None:
        found[offset + ASKED] |= 1 << bit
        if value < 100 - 1e-6:
          found[offset + FAILED] |= 1 << bit
  return found


def _row(
  record: Mapping[str, Any],
  head: tuple[int, int],
  run: int,
  text: _Kept,
  question: _Kept,
) -> list[Any]:
  items = []
  for item in record["items"]:
    instruction, prompt = _split(item["prompt"])
    asked = question(
      (
        text(item["metric"]),
        text(item["kind"]),
        text(instruction) if instruction else -1,
        text(prompt),
        tuple(text(str(answer)) for answer in item["answers"]),
      )
    )
    scores = item["scores"]
    items.append(
      [
        *(asked, text(item["before"]), text(item["after"])),
        *(_small(item.get(f"log_p_{when}"), 2) for when in ("before", "after")),
        *(
          _small(scores.get(name), 3) for name in ("em", "token", "free", "kl")
        ),
        *(_maybe(item.get(f"free_{w}"), text) for w in ("before", "after")),
      ]
    )
    while items[-1][-1] in (None, -1):  # most lack free answers
      items[-1].pop()
  return [
    *(head[0], text(record["id"]), text(record["prompt"])),
    *(text(record["target"]), _maybe(record.get("instruction"), text)),
    *(run, head[1], masks(record["scores"]), items),
    _maybe(record.get("fluency_text"), text),
  ]


def _split(prompt: str) -> tuple[str, str]:
  """The instruction in front of a prompt, kept apart as it repeats."""
  at = prompt.find(_INPUT) if prompt.startswith("Task: ") else -1
  end = at + len(_INPUT)
  return ("", prompt) if at < 0 else (prompt[:end], prompt[end:])


def _maybe(value: Any, text: _Kept) -> int:
  return text(value) if isinstance(value, str) and value else -1


def _small(value: Any, places: int) -> float | int | None:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  if value != value or abs(value) == float("inf"):
    return None
  short = round(float(value), places)
  return int(short) if short.is_integer() else short


def _reason(failed: Mapping[str, Any]) -> str:
  return str(failed.get("reason", "no reason given"))
