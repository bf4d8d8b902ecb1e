"""Folders as an evaluation leaves them, made up."""

import json
import pathlib
from typing import Any

import numpy as np

NASTY = "</script><script>alert('x')</script> & \"q\" <b>é\u202e|_*`\\ $%#~^{}"
OPTIONS = {
  "instruction": "held_out:0",
  "seed": 0,
  "resamples": 200,
  "free": True,
}


def record(
  number: int, task: str, rng: np.random.Generator, **changes: Any
) -> dict[str, Any]:
  """A line of records.jsonl with all four kinds of questions."""
  prompt = f"What is {task} {number}?"
  right = {k: float(rng.random() < 0.7) for k in "RGLP"}
  items = [
    _item("reliability", "reliability", prompt, right["R"], free=True),
    _item("generalization", "rephrase", f"And {number}?", right["G"]),
    _item("locality", "nq", f"Else {number}?", right["L"], kl=0.25),
    _item("portability", "Reasoning", f"So {number}?", right["P"]),
  ]
  scores = {
    "reliability_em": 100 * right["R"],
    "reliability_free": 100 * right["R"],
    "generalization_em": 100 * right["G"],
    "locality_em": 100 * right["L"],
    "locality_token": 50 + 50 * right["L"],
    "locality_kl": 0.25,
    "portability_em": 100 * right["P"],
  }
  return {
    "id": f"{task}/test/{number}",
    "task": task,
    "prompt": prompt,
    "target": f"answer {number}",
    "instruction": "Change it.",
    "scores": scores,
    "items": items,
    "fluency_text": None,
  } | changes


def _item(
  metric: str, kind: str, prompt: str, right: float, *, free=False, kl=None
) -> dict[str, Any]:
  scores = {"em": right, "token": 0.5 + right / 2}
  item = {
    "metric": metric,
    "kind": kind,
    "prompt": prompt,
    "answers": ["answer", "alias"],
    "before": " old",
    "after": " new" if right else " wrong",
    "log_p_before": -3.25,
    "log_p_after": -0.5,
    "scores": scores,
  }
  if free:
    scores["free"] = right
    item |= {"free_before": "old text", "free_after": "new text"}
  if kl is not None:
    scores["kl"] = kl
  return item


def write(
  folder: pathlib.Path,
  *,
  editors: tuple[str, ...] = ("mend", "instructedit"),
  tasks: tuple[str, ...] = ("zsre", "counterfact"),
  queries: tuple[str, ...] = ("bare",),
  count: int = 6,
  seed: int = 0,
  digest: str = "",
  options: dict[str, Any] | None = None,
  model: str = "small",
  change: Any = None,
) -> pathlib.Path:
  """One finished evaluation.

  Args:
    folder: made.
    editors, tasks, queries: all combinations.
    count: records of each.
    seed: of the scores.
    digest: in place of the editors' numbers; "" derives it from the seed.
    options: changes of the protocol's.
    model: the base model's name.
    change: called with every record before it is written.
  """
  folder.mkdir(parents=True)
  rng = np.random.default_rng(seed)
  chunks, lines = [], []
  for task in tasks:
    for editor in editors:
      for query in queries:
        mine = [record(n, task, rng) for n in range(count)]
        for one in mine:
          if change is not None:
            change(one)
          lines.append({"editor": editor, "query": query, **one})
        chunks.append(
          {
            "task": task,
            "editor": editor,
            "query": query,
            "records": count,
            "failed": [],
            "protocol": {
              "versions": {"jax": "0.10.2"},
              "device": "cpu",
              "query": query,
              "model": {"name": model, "fingerprint": "f" * 64},
              "editor": None
              if editor == "base"
              else {
                "method": editor,
                "config": {"rank": 4},
                "sha256": digest or f"{editor}-{seed}",
              },
              "data": {"file": f"{task}.json", "sha256": "d", "records": count},
              "options": OPTIONS | (options or {}),
            },
          }
        )
  (folder / "protocol.json").write_text(
    json.dumps({"command": "evaluate it", "chunks": chunks})
  )
  (folder / "records.jsonl").write_text(
    "".join(json.dumps(line) + "\n" for line in lines)
  )
  (folder / "summary.json").write_text("[]")
  return folder
