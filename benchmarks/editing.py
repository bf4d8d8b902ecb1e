r"""Editing: how long one request takes, and what an edit costs generation.

  python -m benchmarks.editing --data=DIR --out=editing.json

Latency is of one instructed request on a warm process, from its text to an edit
ready for use; the prompt is new, the instruction (one of a task's few) was met
before, and the edit is made from one form of the prompt and in two rounds
unless said otherwise.
PyTorch makes (a) the released edit, rank 1920 from the instructed prompt,
dense, and (b) our default editor's, both one at a time. Generation is greedy,
of a fixed number of tokens, with an edit applied (ours factored, PyTorch's in
the weights, where it costs nothing) and without.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
from absl import flags

from benchmarks import options, rows
from benchmarks.peer import editor as peer_editor
from benchmarks.peer import language_model, texts
from benchmarks.peer.published import Published, Text
from benchmarks.rows import Row
from benchmarks.timing import Times, side_by_side
from instructedit_jax import app
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors import metalearned, reference
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.editors.trained import instruction_sequence
from instructedit_jax.models import generate
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.tasks import instructions
from instructedit_jax.tasks.record import Record
from instructedit_jax.tasks.splits import load_split
from instructedit_jax.training import reference_data

_TOKENS = flags.DEFINE_integer("tokens", 48, "New tokens of a generation.")
# Requests before the measured ones.
_WARM = 3
# A loss that any edit is below: all of them are scaled down as far as it goes.
_ALWAYS = 1e9


def main(argv: Sequence[str]) -> None:
  """Measures and prints."""
  del argv
  model = load_model(options.MODEL.value, suffix=options.SUFFIX.value)
  peer = language_model.load(model)
  count = options.repeats(30, 3)
  records = load_split(options.DATA.value, "counterfact", "test")[0]
  count = min(count, len(records) - _WARM)
  records = records[: count + _WARM]
  found = latencies(model, peer, records, count)
  found += generation(model, peer, records[0])
  rows.finish(found, options.OUT.value)


def latencies(
  model: LanguageModel,
  peer: language_model.Peer,
  records: Sequence[Record],
  count: int,
) -> list[Row]:
  """One request after the other; every program gets the same ones."""
  programs = {
    "ours": _ours(model, records),
    "unrestrained": _ours(model, records, enough=0.0),
    "restrained": _ours(model, records, enough=_ALWAYS),
    "both forms": _ours(model, records, both_forms=True),
    # What configs/multi.py trains.
    "views": _ours(
      model, records, both_forms=True, method="instructedit_views"
    ),
    # Untrained, it hardly ever says an answer: all of them cost a round.
    "insisting": _ours(model, records, insist=1),
    "released": _released(model, peer, records),
    "our editor": _batched(model, peer, records),
  }
  times = side_by_side(programs, count, warm=_WARM)
  found = []
  for other in ("released", "our editor"):
    for share in (0.5, 0.95):
      mine, its = (times[n].quantile(share) * 1e3 for n in ("ours", other))
      title = f"edit latency p{share * 100:.0f}, vs PyTorch, {other}"
      found.append(
        rows.latency(
          title,
          mine,
          its,
          requests=count,
          model=options.MODEL.value,
          data=options.DATA.value,
          torch=language_model.version(),
        )
      )
  most, none = times["restrained"], times["unrestrained"]
  return [
    *found,
    _ratio("edit latency, restraint at its costliest / none", most, none),
    _ratio(
      "edit latency, both forms / one", times["both forms"], times["ours"]
    ),
    _ratio(
      "edit latency, both forms and views / one", times["views"], times["ours"]
    ),
    _ratio(
      "edit latency, a further round / none", times["insisting"], times["ours"]
    ),
  ]


def _ratio(title: str, more: Times, less: Times) -> Row:
  return Row(
    title,
    more.wall / less.wall,
    None,
    None,
    "of 1",
    {
      "requests": len(less.walls),
      "milliseconds": [more.wall * 1e3, less.wall * 1e3],
    },
  )


def _ours(
  model: LanguageModel, records: Sequence[Record], **changes: Any
) -> Callable[[], Any]:
  """Our default editor with other values of its configuration."""
  editor, cache = peer_editor.untrained(model), PrefixCache(model)
  config = dataclasses.replace(editor.config, **changes)
  editor = dataclasses.replace(editor, config=config)
  requests = [
    Request(r.prompt, r.target, instructions.fixed(r)) for r in records
  ]
  # Every shape is compiled; nothing of that is kept.
  for request in requests:
    editor.propose(model, request, PrefixCache(model))
  turns = iter(requests)
  return lambda: editor.propose(model, next(turns), cache)


def _batched(
  model: LanguageModel, peer: language_model.Peer, records: Sequence[Record]
) -> Callable[[], Any]:
  theirs = peer_editor.in_torch(peer, peer_editor.untrained(model))
  turns = iter(records)

  def run() -> None:
    record = next(turns)
    told = instruction_sequence(model, instructions.fixed(record))
    theirs.propose(
      texts.texts([peer_editor.request(model, record)], [0]),
      texts.texts([told], [0]),
      None,
    )

  return run


def _released(
  model: LanguageModel, peer: language_model.Peer, records: Sequence[Record]
) -> Callable[[], Any]:
  config = reference.ReferenceConfig(
    HypernetworkConfig(rank=options.RANK.value)
  )
  shapes = metalearned.shapes(model.config)
  state = reference.init(jax.random.key(0), shapes, config)
  published = Published(peer, config, state)
  # Statistics of something, as a trained editor has.
  published.updates(_text(model, records[0]), grow=True)
  turns = iter(records)

  def run() -> None:
    published.updates(_text(model, next(turns)))

  return run


def _text(model: LanguageModel, record: Record) -> Text:
  prompt = instructions.fixed(record).apply(record.prompt)
  example = reference_data.Example(
    (f"{prompt} {record.target}",), record.target, (("a b", "b"),)
  )
  most = options.tokens(128)
  return Text.of(reference_data.make_batch(model.text, example, most))


def generation(
  model: LanguageModel, peer: language_model.Peer, record: Record
) -> list[Row]:
  """Tokens a second, edited and not."""
  request = Request(record.prompt, record.target)
  edit = peer_editor.untrained(model).propose(model, request)
  count = 8 if options.QUICK.value else _TOKENS.value
  ids = model.text.encode(record.prompt)
  tokens = np.asarray([ids], np.int32)

  def ours(edit: Any) -> Any:
    return generate.decode(
      model.graph,
      model.params,
      tokens,
      np.asarray([len(ids)], np.int32),
      np.ones(1, bool),
      np.asarray([-1], np.int32),
      edit,
      max_new_tokens=count,
    ).tokens

  def theirs() -> Any:
    with torch.no_grad():
      peer.lm.generate(
        torch.tensor(tokens.astype(np.int64)),
        attention_mask=torch.ones(tokens.shape, dtype=torch.long),
        min_new_tokens=count,
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
      )

  programs = {
    "with": lambda: ours(edit),
    "without": lambda: ours(None),
    "torch": theirs,
  }
  repeats = options.repeats(7)
  times = side_by_side(programs, repeats, dict.fromkeys(programs, float(count)))
  common = {
    "tokens": count,
    "prompt_tokens": len(ids),
    "texts": 1,
    "repeats": repeats,
    "model": options.MODEL.value,
    "torch": language_model.version(),
  }
  found = [
    rows.rate(
      f"generation, {name} an edit",
      times[name],
      times["torch"],
      "tokens/s",
      **common,
    )
    for name in ("with", "without")
  ]
  return [*found, _overhead(times["with"], times["without"])]


def _overhead(edited: Times, plain: Times) -> Row:
  return Row(
    "generation, speed with an edit / without",
    edited.rate / plain.rate,
    None,
    None,
    "of 1",
    {"quartiles_with": edited.rates, "quartiles_without": plain.rates},
  )


if __name__ == "__main__":
  app.run(main)
