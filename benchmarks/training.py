r"""Meta-training: episodes a second, ours against PyTorch.

  python -m benchmarks.training --out=training.json

Both sides take records of the same tasks from the same files. PyTorch runs (a)
the released step, one record at a time through the whole model, rank 1920, and
(b) our own step batched as a good PyTorch engineer would. Ours runs with prefix
states kept ("cached") and computed anew for every batch ("not cached").

--to_loss=0.63 also trains ours until the validation loss of edits is that low
and gives the wall time, compilation and prefix included. PyTorch's time is
--peer_steps times its measured step, not run.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import torch
from absl import flags
from flax import nnx

from benchmarks import rows
from benchmarks.peer import language_model, texts
from benchmarks.peer.batched import Batched
from benchmarks.peer.published import Published, Text
from benchmarks.rows import Row
from benchmarks.timing import side_by_side
from instructedit_jax import app
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors import metalearned, reference
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.tasks.instructions import POOLS
from instructedit_jax.training import reference_data
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import Batch, Batcher, fitting
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.data import Episodes, load_records

_OUT = flags.DEFINE_string("out", None, "File for the rows, JSON.")
_MODEL = flags.DEFINE_string("model", "smollm2-135m", "Base model.")
_SUFFIX = flags.DEFINE_integer("suffix", 3, "Editable blocks.")
_DATA = flags.DEFINE_string("data", "embedded", "As config.data.")
_TASKS = flags.DEFINE_list("tasks", ["counterfact", "wikirecent"], "Tasks.")
_BATCH = flags.DEFINE_integer("batch", 8, "Episodes a step.")
_STEPS = flags.DEFINE_integer("steps", 6, "Different batches prepared.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Measured steps of each kind.")
_RANK = flags.DEFINE_integer("rank", 1920, "Of the published editor.")
_WORDS = flags.DEFINE_float("words", 1, "Tokens a word has; bytes: 5.")
_TO_LOSS = flags.DEFINE_float("to_loss", None, "Train ours to this edit loss.")
_PEER_STEPS = flags.DEFINE_integer(
  "peer_steps", 700, "Released steps that reach it."
)

# Variants of our step, as rows are called.
DEFAULT, SAME = "default editor", "published editor"


def main(argv: Sequence[str]) -> None:
  """Measures and prints."""
  del argv
  model = load_model(_MODEL.value, suffix=_SUFFIX.value)
  rows.finish(measure(model), _OUT.value)


def run_config(editor: EditorConfig, edit_tokens: int) -> TrainConfig:
  """A training run over the flags' records."""
  base = TrainConfig()
  scale = _WORDS.value

  def longer(tokens: int) -> int:
    return int(tokens * scale)

  shape = dataclasses.replace(
    base.shape,
    edit_tokens=longer(edit_tokens),
    query_tokens=longer(base.shape.query_tokens),
  )
  return dataclasses.replace(
    base,
    model=_MODEL.value,
    suffix=_SUFFIX.value,
    data=_DATA.value,
    tasks=tuple((task, 1.0) for task in sorted(_TASKS.value)),
    steps=_STEPS.value,
    batch_size=_BATCH.value,
    editor=editor,
    shape=shape,
  )


def variants() -> dict[str, TrainConfig]:
  """Our default editor, and the published one's size, rows and prompts."""
  published = EditorConfig(
    method="instructedit_text",
    network=HypernetworkConfig(rank=_RANK.value),
    rows="all",
    rounds=1,
    ridge=0.0,
  )
  return {
    DEFAULT: run_config(EditorConfig(), 40),
    SAME: run_config(published, 120),
  }


def measure(model: LanguageModel) -> list[Row]:
  """All rows."""
  peer = language_model.load(model)
  programs: dict[str, Callable[[], Any]] = {}
  runs = variants()
  for name, config in runs.items():
    ours = Ours(model, config)
    programs[f"{name}, prefix cached"] = ours.cached
    programs[f"{name}, prefix not cached"] = ours.uncached
    if name == DEFAULT:
      programs["batched"] = BatchedPeer(peer, ours)
  programs |= released(model, peer)
  work = dict.fromkeys(programs, float(_BATCH.value))
  work |= {"released": 1.0, "released in JAX": 1.0}
  times = side_by_side(programs, _REPEATS.value, work)
  found = []
  common = {
    "model": _MODEL.value,
    "batch": _BATCH.value,
    "tasks": _TASKS.value,
    "repeats": _REPEATS.value,
    "torch": torch.__version__,
    "torch_threads": torch.get_num_threads(),
  }
  for name, config in runs.items():
    rank = config.editor.network.rank
    for kept in ("cached", "not cached"):
      ours = times[f"{name}, prefix {kept}"]
      for label in ("released", "batched"):
        title = f"training, {name}, rank {rank}, prefix {kept}, vs {label}"
        found.append(
          rows.rate(
            title, ours, times[label], "episodes/s", rank=rank, **common
          )
        )
  found.append(
    rows.rate(
      "training, released step in JAX, one record",
      times["released in JAX"],
      times["released"],
      "episodes/s",
      rank=_RANK.value,
      **common,
    )
  )
  if _TO_LOSS.value is not None:
    peer_seconds = times["released"].wall * _PEER_STEPS.value
    found.append(_to_loss(model, runs[DEFAULT], peer_seconds))
  return found


class Ours:
  """Our training step on a few prepared batches."""

  def __init__(self, model: LanguageModel, config: TrainConfig):
    self.config, self._model = config, model
    self.episodes = Episodes(model, config, load_records(config))
    self.drawn = self.episodes._drawn(0, None)
    self._batches = list(self.episodes.batches(0))
    rule = step_lib.optimizer(config.optimizer, 1000)
    self.state = step_lib.init_state(
      jax.random.key(0), config.editor, model.config, rule
    )
    self._state = jax.tree.map(lambda leaf: leaf.copy(), self.state)
    step = step_lib.make_train_step(
      model.graph, config.editor, config.loss, model.config, rule
    )
    self._step = jax.jit(step, donate_argnums=0)
    self._turn = 0

  def cached(self) -> Any:
    """A step whose batch is ready."""
    self._turn += 1
    return self._run(self._batches[self._turn % len(self._batches)])

  def uncached(self) -> Any:
    """A step from token sequences: the prefix is computed, too."""
    self._turn += 1
    cache = PrefixCache(self._model)
    batcher = Batcher(cache, self.config.shape, self._model.config.width)
    return self._run(batcher(*self.drawn[self._turn % len(self.drawn)]))

  def _run(self, batch: Batch) -> Any:
    self._state, metrics = self._step(self._state, self._model.params, batch)
    return metrics


class BatchedPeer:
  """The same episodes, batched in PyTorch."""

  def __init__(self, peer: language_model.Peer, ours: Ours):
    config = ours.config
    self._editor = Batched(
      peer,
      config.editor,
      ours.state.params,
      ours.state.statistics,
      config.loss,
      config.optimizer,
    )
    self._steps = [
      texts.training_step(
        episodes, told, [fitting(e, config.shape) for e in episodes]
      )
      for episodes, told in ours.drawn
    ]
    self._turn = 0

  def __call__(self) -> Any:
    """One step."""
    self._turn += 1
    return self._editor.step(self._steps[self._turn % len(self._steps)])


def released(
  model: LanguageModel, peer: language_model.Peer
) -> dict[str, Callable[[], Any]]:
  """The released step, one record at a time, in PyTorch and in JAX."""
  config = reference.ReferenceConfig(HypernetworkConfig(rank=_RANK.value))
  shapes = metalearned.shapes(model.config)
  state = reference.init(jax.random.key(0), shapes, config)
  tasks = [task for task in sorted(_TASKS.value) if task != "convsent"]
  count = _STEPS.value
  examples = reference_data.load_examples(
    _DATA.value, tasks, dict.fromkeys(tasks, count), 0, pools=POOLS
  )
  batches = [
    reference_data.make_batch(model.text, example, int(128 * _WORDS.value))
    for example in examples
  ]
  editor = Published(peer, config, state)
  micro_step = jax.jit(
    lambda weights, state, batch: reference.micro_step(
      nnx.merge(model.graph, weights), state, shapes, config, batch
    )[0]
  )
  held = {"state": state}
  # One compiled shape: that of most records.
  sizes = [b.tokens.shape + b.loc_tokens.shape for b in batches]
  usual = max(set(sizes), key=sizes.count)
  chosen = [b for b, s in zip(batches, sizes, strict=True) if s == usual]
  turns = {"torch": _cycle(chosen), "jax": _cycle(chosen)}

  def in_torch() -> Any:
    return editor.step(Text.of(next(turns["torch"])))

  def in_jax() -> Any:
    held["state"] = micro_step(model.params, held["state"], next(turns["jax"]))
    return held["state"].step

  return {"released": in_torch, "released in JAX": in_jax}


def _cycle(values: Sequence[Any]) -> Iterator[Any]:
  while True:
    yield from values


def _to_loss(
  model: LanguageModel, config: TrainConfig, peer_seconds: float
) -> Row:
  """Seconds until the validation loss of edits is low enough."""
  start = time.perf_counter()
  config = dataclasses.replace(config, steps=2000)
  episodes = Episodes(model, config, load_records(config))
  rule = step_lib.optimizer(config.optimizer, 300)
  state = step_lib.init_state(
    jax.random.key(0), config.editor, model.config, rule
  )
  common = (model.graph, config.editor, config.loss)
  step = jax.jit(
    step_lib.make_train_step(*common, model.config, rule), donate_argnums=0
  )
  validate = jax.jit(step_lib.make_validation_step(*common))
  held: list[Batch] = []
  loss, agreement, number = float("inf"), 0.0, 0
  for number, batch in enumerate(episodes.batches(0), 1):
    state, _ = step(state, model.params, batch)
    if number % 20:
      continue
    held = held or episodes.validation_batches()
    scores = [validate(state, model.params, batch) for batch in held]
    loss = float(np.mean([float(s["edit_loss"]) for s in scores]))
    agreement = float(np.mean([float(s["locality_agreement"]) for s in scores]))
    if loss <= _TO_LOSS.value:
      break
  seconds = time.perf_counter() - start
  return rows.latency(
    f"time to edit loss {_TO_LOSS.value}",
    seconds,
    peer_seconds,
    "s",
    steps=number,
    edit_loss=loss,
    locality_agreement=agreement,
    peer="measured step x --peer_steps; not run",
  )


if __name__ == "__main__":
  app.run(main)
