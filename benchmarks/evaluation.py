r"""Evaluation: records a second, all probes, before and after the edit.

  python -m benchmarks.evaluation --out=evaluation.json

The same (untrained) default editor on both sides, the same questions and
answers, teacher-forced; free generation is left out. PyTorch takes the records
(a) one by one, each question through the whole model by itself, as the released
code does, and (b) with all questions of a record in one padded batch. Ours
starts from an empty prefix cache every time, and once more with it kept, as a
second editor's evaluation finds it. All three must agree on the predictions.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import torch
from absl import flags

from benchmarks import rows
from benchmarks.peer import language_model, texts
from benchmarks.peer.batched import Batched
from benchmarks.rows import Row
from benchmarks.timing import side_by_side
from instructedit_jax import app
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.sequences import Scored, score
from instructedit_jax.editors import metalearned
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.evaluation import items, predictions
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.tasks.record import Record
from instructedit_jax.tasks.splits import load_split
from instructedit_jax.training.losses import LossConfig
from instructedit_jax.training.step import OptimizerConfig

_OUT = flags.DEFINE_string("out", None, "File for the rows, JSON.")
_MODEL = flags.DEFINE_string("model", "smollm2-135m", "Base model.")
_SUFFIX = flags.DEFINE_integer("suffix", 3, "Editable blocks.")
_DATA = flags.DEFINE_string("data", "embedded", "As config.data.")
_TASKS = flags.DEFINE_list("tasks", ["counterfact", "zsre"], "Tasks.")
_RECORDS = flags.DEFINE_integer("records", 16, "Records of each task.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Measured runs of each kind.")
_ONE_BY_ONE = flags.DEFINE_integer(
  "one_by_one", 4, "Records of those that PyTorch takes question by question."
)


def main(argv: Sequence[str]) -> None:
  """Measures and prints."""
  del argv
  model = load_model(_MODEL.value, suffix=_SUFFIX.value)
  peer = language_model.load(model)
  found: list[Row] = []
  for task in _TASKS.value:
    records = load_split(_DATA.value, task, "test")[0][: _RECORDS.value]
    found += measure(model, peer, task, records)
  rows.finish(found, _OUT.value)


def untrained(model: LanguageModel) -> TrainedEditor:
  """The default editor as training finds it: gradient descent in essence."""
  config = EditorConfig()
  params, statistics = metalearned.init(jax.random.key(0), config, model.config)
  return TrainedEditor(
    config, params, statistics, model.fingerprint, model.config.suffix
  )


def torch_editor(peer: language_model.Peer, editor: TrainedEditor) -> Batched:
  """The same in PyTorch."""
  return Batched(
    peer,
    editor.config,
    editor.params,
    editor.statistics,
    LossConfig(),
    OptimizerConfig(),
  )


def request(model: LanguageModel, record: Record) -> Scored:
  """The tokens an edit is made from."""
  limit = EditorConfig().answer_tokens
  return score(
    model.text,
    record.prompt,
    record.target,
    context=model.config.context,
    limit=limit,
  )


def questions(model: LanguageModel, record: Record) -> list[Scored]:
  """Every answer of every question of a record."""
  return [
    score(model.text, item.prompt, answer, context=model.config.context)
    for item in items.items_of(record, None, 5)
    for answer in item.answers
  ]


def measure(
  model: LanguageModel,
  peer: language_model.Peer,
  task: str,
  records: Sequence[Record],
) -> list[Row]:
  """The rows of one task."""
  editor, asked = untrained(model), [questions(model, r) for r in records]
  theirs = torch_editor(peer, editor)
  requests = [Request(r.prompt, r.target) for r in records]
  kept = PrefixCache(model)

  def ours(cache: PrefixCache) -> Any:
    edit = editor.propose_each(model, requests, cache)
    return predictions.predict(model, cache, asked, edit)

  few = records[: _ONE_BY_ONE.value]

  def one_by_one() -> Any:
    return [
      _asked(theirs, model, r, [[s] for s in a])
      for r, a in zip(few, asked, strict=False)
    ]

  def batched() -> Any:
    return [
      _asked(theirs, model, r, [a]) for r, a in zip(records, asked, strict=True)
    ]

  agreement = _agreement(ours(kept), batched())
  if agreement < 0.99:
    raise RuntimeError(f"{task}: predictions agree in {agreement:.1%} only")
  times = side_by_side(
    {
      "ours": lambda: ours(PrefixCache(model)),
      "ours again": lambda: ours(kept),
      "one by one": one_by_one,
      "batched": batched,
    },
    _REPEATS.value,
    {
      "ours": len(records),
      "ours again": len(records),
      "one by one": len(few),
      "batched": len(records),
    },
    warm=0,
  )
  common = {
    "model": _MODEL.value,
    "records": len(records),
    "questions": float(np.mean([len(a) for a in asked])),
    "agreement": agreement,
    "torch": torch.__version__,
  }
  return [
    rows.rate(
      f"evaluation, {task}, {label}, vs {other}",
      times[name],
      times[other],
      "records/s",
      **common,
    )
    for name, label in (("ours", "empty cache"), ("ours again", "cache kept"))
    for other in ("one by one", "batched")
  ]


def _asked(
  editor: Batched,
  model: LanguageModel,
  record: Record,
  groups: Sequence[Sequence[Scored]],
) -> list[np.ndarray]:
  """Predicted tokens before and after the edit, [2, N], of each group."""
  edit = editor.propose(texts.texts([request(model, record)], [0]), None, None)
  found = []
  with torch.no_grad():
    for group in groups:
      batch = texts.texts(group, [0] * len(group))
      pair = [editor.after(batch, e).argmax(-1) for e in (None, edit)]
      found.append(torch.stack(pair).numpy())
  return found


def _agreement(ours: list, theirs: list) -> float:
  """Share of predictions, before and after, that are the same."""
  same = []
  for mine, (other,) in zip(ours, theirs, strict=True):
    for side, name in enumerate(("before", "after")):
      held = np.concatenate([getattr(p, name) for p in mine])
      same.append(held == other[side])
  return float(np.concatenate(same).mean())


if __name__ == "__main__":
  app.run(main)
