r"""Evaluation: records a second, all questions, before and after the edit.

  python -m benchmarks.evaluation --data=DIR --out=evaluation.json

The same (untrained) default editor on both sides, the same questions, each with
its first answer, teacher-forced; free generation is left out. PyTorch takes
records (a) one by one, each question through the whole model by itself, as the
released code does, and (b) a few records at once, their questions sorted by
length into padded batches. Ours starts from an empty prefix cache every time,
and once more with it kept, as a second editor's evaluation finds it. Both must
agree on the predictions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from absl import flags

from benchmarks import options, rows
from benchmarks.peer import editor as peer_editor
from benchmarks.peer import language_model, texts
from benchmarks.peer.batched import Batched
from benchmarks.rows import Row
from benchmarks.timing import side_by_side
from instructedit_jax import app
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.sequences import Scored, score
from instructedit_jax.editors.base import Request
from instructedit_jax.evaluation import items, predictions
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.tasks.record import Record
from instructedit_jax.tasks.splits import load_split

_RECORDS = flags.DEFINE_integer("records", 16, "Records of each task.")
_ONE_BY_ONE = flags.DEFINE_integer(
  "one_by_one", 4, "Records of those that PyTorch takes question by question."
)
# Of PyTorch's batches.
_AT_ONCE, _QUESTIONS = 4, 32


def main(argv: Sequence[str]) -> None:
  """Measures and prints."""
  del argv
  model = load_model(options.MODEL.value, suffix=options.SUFFIX.value)
  peer = language_model.load(model)
  count = 4 if options.QUICK.value else _RECORDS.value
  found: list[Row] = []
  for task in options.tasks("counterfact", "zsre"):
    records = load_split(options.DATA.value, task, "test")[0][:count]
    found += measure(model, peer, task, records)
  rows.finish(found, options.OUT.value)


def questions(model: LanguageModel, record: Record) -> list[Scored]:
  """Every question of a record, with its first answer."""
  return [
    score(
      model.text, item.prompt, item.answers[0], context=model.config.context
    )
    for item in items.items_of(record, None, 5)
  ]


def measure(
  model: LanguageModel,
  peer: language_model.Peer,
  task: str,
  records: Sequence[Record],
) -> list[Row]:
  """The rows of one task."""
  editor = peer_editor.untrained(model)
  asked = [questions(model, record) for record in records]
  edits = [peer_editor.request(model, record) for record in records]
  theirs = peer_editor.in_torch(peer, editor)
  requests = [Request(r.prompt, r.target) for r in records]
  kept = PrefixCache(model)
  few = min(_ONE_BY_ONE.value, len(records))

  def ours(cache: PrefixCache) -> Any:
    edit = editor.propose_each(model, requests, cache)
    return predictions.predict(model, cache, asked, edit)

  def batched() -> list[list[np.ndarray]]:
    found: list[list[np.ndarray]] = []
    for start in range(0, len(records), _AT_ONCE):
      chunk = slice(start, start + _AT_ONCE)
      found += answers(theirs, edits[chunk], asked[chunk], _QUESTIONS)
    return found

  def one_by_one() -> Any:
    return [
      answers(theirs, [edit], [row], 1)
      for edit, row in zip(edits[:few], asked, strict=False)
    ]

  agreement = _agreement(ours(kept), batched())
  if agreement < 0.99:
    raise RuntimeError(f"{task}: predictions agree in {agreement:.1%} only")
  counts = dict.fromkeys(("ours", "ours again", "batched"), float(len(records)))
  count = options.repeats(3, 1)
  times = side_by_side(
    {
      "ours": lambda: ours(PrefixCache(model)),
      "ours again": lambda: ours(kept),
      "one by one": one_by_one,
      "batched": batched,
    },
    count,
    {**counts, "one by one": float(few)},
    warm=0,
  )
  common = {
    "model": options.MODEL.value,
    "data": options.DATA.value,
    "records": len(records),
    "questions": float(np.mean([len(row) for row in asked])),
    "agreement": agreement,
    "repeats": count,
    "torch": language_model.version(),
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


def answers(
  editor: Batched,
  edits: Sequence[Scored],
  asked: Sequence[Sequence[Scored]],
  size: int,
) -> list[list[np.ndarray]]:
  """Predicted tokens before and after, [2, L], of each record's questions.

  Args:
    editor: of PyTorch.
    edits: each record's request.
    asked: each record's questions.
    size: questions in a batch.
  """
  edit = editor.propose(texts.texts(edits, range(len(edits))), None, None)
  places = [(b, n) for b, row in enumerate(asked) for n in range(len(row))]
  places.sort(key=lambda place: len(asked[place[0]][place[1]].tokens))
  found: list[list[Any]] = [[None] * len(row) for row in asked]
  with torch.no_grad():
    for start in range(0, len(places), size):
      chunk = places[start : start + size]
      batch = texts.texts(
        [asked[b][n] for b, n in chunk], [b for b, _ in chunk]
      )
      pair = [editor.after(batch, e).argmax(-1) for e in (None, edit)]
      both, row = torch.stack(pair).numpy(), batch.row.numpy()
      for number, (b, n) in enumerate(chunk):
        found[b][n] = both[:, row == number]
  return found


def _agreement(ours: list, theirs: list) -> float:
  """Share of predictions, before and after, that are the same."""
  same = []
  for mine, others in zip(ours, theirs, strict=True):
    for prediction, other in zip(mine, others, strict=True):
      same += [prediction.before == other[0], prediction.after == other[1]]
  return float(np.concatenate(same).mean())


if __name__ == "__main__":
  app.run(main)
