r"""Editing: how long one request takes, and what an edit costs generation.

  python -m benchmarks.editing --out=editing.json

Latency is of one request on a warm process, from its text to an edit ready for
use, with nothing known of it before. PyTorch makes (a) the released edit (rank
1920, dense update) and (b) our default editor's, both one at a time.
Generation is greedy, of a fixed number of tokens, with an edit applied (ours
factored, PyTorch's in the weights) and without.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import torch
from absl import flags

from benchmarks import rows
from benchmarks.evaluation import request, torch_editor, untrained
from benchmarks.peer import language_model, texts
from benchmarks.peer.published import Published, Text
from benchmarks.rows import Row
from benchmarks.timing import Times, side_by_side
from instructedit_jax import app
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors import metalearned, reference
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.models import generate
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.tasks.record import Record
from instructedit_jax.tasks.splits import load_split
from instructedit_jax.training import reference_data

_OUT = flags.DEFINE_string("out", None, "File for the rows, JSON.")
_MODEL = flags.DEFINE_string("model", "smollm2-135m", "Base model.")
_SUFFIX = flags.DEFINE_integer("suffix", 3, "Editable blocks.")
_DATA = flags.DEFINE_string("data", "embedded", "As config.data.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "Requests of each kind.")
_TOKENS = flags.DEFINE_integer("tokens", 48, "New tokens of a generation.")
_RANK = flags.DEFINE_integer("rank", 1920, "Of the published editor.")


def main(argv: Sequence[str]) -> None:
  """Measures and prints."""
  del argv
  model = load_model(_MODEL.value, suffix=_SUFFIX.value)
  peer = language_model.load(model)
  records = load_split(_DATA.value, "counterfact", "test")[0]
  records = records[: _REPEATS.value + 1]
  found = latencies(model, peer, records)
  found += generation(model, peer, records[0])
  rows.finish(found, _OUT.value)


def latencies(
  model: LanguageModel, peer: language_model.Peer, records: Sequence[Record]
) -> list[Row]:
  """One request after the other."""
  editor = untrained(model)
  theirs, turn = torch_editor(peer, editor), {"now": 0}
  config = reference.ReferenceConfig(HypernetworkConfig(rank=_RANK.value))
  shapes = metalearned.shapes(model.config)
  state = reference.init(jax.random.key(0), shapes, config)
  published = Published(peer, config, state)
  # Statistics of something, as a trained editor has.
  published.updates(_text(model, records[0]), grow=True)

  def following() -> Record:
    turn["now"] += 1
    return records[turn["now"] % len(records)]

  def ours() -> Any:
    record = following()
    made = Request(record.prompt, record.target)
    return editor.propose(model, made, PrefixCache(model))

  def batched() -> Any:
    batch = texts.texts([request(model, following())], [0])
    return theirs.propose(batch, None, None) and None

  def released() -> Any:
    with torch.enable_grad():
      published.updates(_text(model, following()))

  programs = {"ours": ours, "released": released, "our editor": batched}
  times = side_by_side(programs, _REPEATS.value, warm=3)
  for module in peer.matrices.values():
    module.weight.requires_grad_(False)
  found = []
  for other in ("released", "our editor"):
    for share in (0.5, 0.95):
      mine, its = (times[n].quantile(share) * 1e3 for n in ("ours", other))
      title = f"edit latency p{share * 100:.0f}, vs PyTorch, {other}"
      found.append(rows.latency(title, mine, its, requests=_REPEATS.value))
  return found


def _text(model: LanguageModel, record: Record) -> Text:
  example = reference_data.Example(
    (f"{record.prompt} {record.target}",), record.target, (("a b", "b"),)
  )
  return Text.of(reference_data.make_batch(model.text, example, 128))


def generation(
  model: LanguageModel, peer: language_model.Peer, record: Record
) -> list[Row]:
  """Tokens a second, edited and not."""
  edit = untrained(model).propose(model, Request(record.prompt, record.target))
  count = _TOKENS.value
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
  # An edit in the weights costs PyTorch nothing: one program stands for both.
  times = side_by_side(
    programs,
    max(3, _REPEATS.value // 4),
    dict.fromkeys(programs, float(count)),
  )
  common = {"tokens": count, "prompt_tokens": len(ids), "rows": 1}
  found = [
    rows.rate(
      f"generation, {name} an edit", times[name], times["torch"], "tokens/s",
      **common,
    )
    for name in ("with", "without")
  ]  # fmt: skip
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
