"""Training steps of all sides, ready to be timed.

An episode is one edit with its questions. Ours and the batched PyTorch step
take the same episodes; the released step takes records of the same tasks, one
at a time, with the questions it was released with: the prompt that made the
edit and about three others, where ours ask ten, or five (`SHORT`).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks import options
from benchmarks.peer import language_model, texts
from benchmarks.peer.batched import Batched
from benchmarks.peer.published import Published, Text
from instructedit_jax import heap
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.sequences import Scored, score
from instructedit_jax.editors import metalearned, reference
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.editors.trained import instruction_sequence
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks.instructions import POOLS
from instructedit_jax.training import reference_data
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import Batch, Batcher, fitting
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.data import Episodes, load_records
from instructedit_jax.training.episodes import Episode, EpisodeMaker

# Episodes of a batch, and their instructions.
Drawn = tuple[list[Episode], list[Scored]]
# Our two editors, as rows call them, and the second with about as many tokens
# of questions as the released step asks.
DEFAULT, SAME = "default editor", "published editor"
SHORT = "published editor, fewer questions"
# Records a task from which the released step's are taken.
_RECORDS = 8


def published_editor(rank: int) -> EditorConfig:
  """The published editor's form, its sign and learning rates apart."""
  return EditorConfig(
    method="instructedit_text",
    network=HypernetworkConfig(rank=rank),
    rows="all",
    rounds=1,
    ridge=0.0,
  )


def run_config(
  editor: EditorConfig, edit_tokens: int, tasks: Sequence[str], steps: int
) -> TrainConfig:
  """A training run over the flags' records."""
  base = TrainConfig()
  # Sides can be compared only if both hear the whole instruction.
  whole = dataclasses.replace(editor.conditioner, unheard=0.0)
  editor = dataclasses.replace(editor, conditioner=whole)
  shape = dataclasses.replace(
    base.shape,
    edit_tokens=options.tokens(edit_tokens),
    query_tokens=options.tokens(base.shape.query_tokens),
  )
  return dataclasses.replace(
    base,
    model=options.MODEL.value,
    suffix=options.SUFFIX.value,
    data=options.DATA.value,
    tasks=tuple((task, 1.0) for task in tasks),
    steps=steps,
    batch_size=options.BATCH.value,
    editor=editor,
    shape=shape,
  )


def variants(tasks: Sequence[str], steps: int) -> dict[str, TrainConfig]:
  """Our default editor; and the published one's size, rows and prompts."""
  published = published_editor(options.RANK.value)
  # The longest instructed prompt with its answer.
  same = run_config(published, 80, tasks, steps)
  return {
    DEFAULT: run_config(EditorConfig(), 40, tasks, steps),
    SAME: same,
    SHORT: _with_fewer_questions(same),
  }


def _with_fewer_questions(config: TrainConfig) -> TrainConfig:
  """The prompt, a paraphrase and the record's own locality prompts."""
  episode = dataclasses.replace(
    config.episode,
    openings=0,
    own_locality=3,
    near_locality=0,
    same_relation=0,
    other_locality=0,
    continuations=0,
    instructed=0.0,
  )
  shape = dataclasses.replace(
    config.shape, query_tokens=options.tokens(96), keep_positions=12
  )
  return dataclasses.replace(config, episode=episode, shape=shape)


class Ours:
  """Our training step on a few prepared batches."""

  def __init__(self, model: LanguageModel, config: TrainConfig):
    self.config, self._model = config, model
    self._batcher = Batcher(
      PrefixCache(model), config.shape, model.config.width
    )
    self.drawn = list(_drawn(model, config))
    self.batches = [self._batcher(*drawn) for drawn in self.drawn]
    rule = step_lib.optimizer(config.optimizer, 1000)
    self.state = step_lib.init_state(
      jax.random.key(0), config.editor, model.config, rule
    )
    self._state = jax.tree.map(lambda leaf: leaf.copy(), self.state)
    step = step_lib.make_train_step(
      model.graph, config.editor, config.loss, model.config, rule
    )
    self._step = heap.CompiledFirst(jax.jit(step, donate_argnums=0))
    self._turns = itertools.count()

  def cached(self) -> Any:
    """A step whose batch is ready."""
    turn = next(self._turns)
    return self._run(self.batches[turn % len(self.batches)])

  def uncached(self) -> Any:
    """A step from token sequences: the prefix is computed, too."""
    turn = next(self._turns)
    cache = PrefixCache(self._model)
    batcher = Batcher(cache, self.config.shape, self._model.config.width)
    return self._run(batcher(*self.drawn[turn % len(self.drawn)]))

  def warm(self) -> None:
    """Compiles all that `uncached` may meet: prefix batches differ."""
    for _ in self.drawn:
      jax.block_until_ready(self.uncached())

  def _run(self, batch: Batch) -> Any:
    self._state, metrics = self._step(self._state, self._model.params, batch)
    return metrics

  def lengths(self) -> dict[str, float]:
    """Mean tokens of an episode's edit and questions, without padding."""
    rows = [(b.edit.ends, b.query.ends) for b in self.batches]
    edit, query = (
      float(np.mean([(side[i] > 0).sum(1).mean() for side in rows]))
      for i in range(2)
    )
    return {"edit_tokens": edit, "query_tokens": query}


def _drawn(model: LanguageModel, config: TrainConfig) -> Iterator[Drawn]:
  """The episodes of a run's steps, and their instructions."""
  records = load_records(config)
  mixture = Episodes(model, config, records).mixture

  def scored(prompt: str, target: str, limit: int) -> Scored:
    context = model.config.context
    return score(model.text, prompt, target, context=context, limit=limit)

  everyone = [record for held in records.values() for record in held]
  make = EpisodeMaker(config.episode, config.editor, scored, everyone)
  rng = np.random.default_rng(config.seed)
  for step in range(config.steps):
    chosen = mixture.batch(step, config.batch_size)
    episodes = [make(record, rng) for record in chosen]
    told = [instruction_sequence(model, e.instruction) for e in episodes]
    yield episodes, told


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
    self._steps = torch_steps(ours)
    self._turns = itertools.count()

  def __call__(self) -> Any:
    """One step."""
    return self._editor.step(self._steps[next(self._turns) % len(self._steps)])


def torch_steps(ours: Ours) -> list[texts.Step]:
  """Our batches as PyTorch's."""
  return [
    texts.training_step(
      episodes, told, [fitting(e, ours.config.shape) for e in episodes]
    )
    for episodes, told in ours.drawn
  ]


class Released:
  """The released step, one record at a time: in PyTorch and in JAX."""

  def __init__(self, model: LanguageModel, tasks: Sequence[str]):
    self.config = reference.ReferenceConfig(
      HypernetworkConfig(rank=options.RANK.value)
    )
    self._model, self._shapes = model, metalearned.shapes(model.config)
    self.state = reference.init(jax.random.key(0), self._shapes, self.config)
    limits = dict.fromkeys(tasks, _RECORDS)
    examples = reference_data.load_examples(
      options.DATA.value, tasks, limits, 0, pools=POOLS
    )
    most = options.tokens(128)
    made = [reference_data.make_batch(model.text, e, most) for e in examples]
    # One compiled shape: that of most records.
    sizes = [b.tokens.shape + b.loc_tokens.shape for b in made]
    usual = max(set(sizes), key=sizes.count)
    self.batches = [b for b, s in zip(made, sizes, strict=True) if s == usual]
    self.texts = [Text.of(batch) for batch in self.batches]

  def in_torch(self, peer: language_model.Peer) -> Callable[[], Any]:
    """A micro-step, an update every second one."""
    editor = Published(peer, self.config, self.state)
    turns = itertools.cycle(self.texts)
    return lambda: editor.step(next(turns))

  def in_jax(self) -> Callable[[], Any]:
    """The same micro-step, compiled."""
    graph, shapes, config = self._model.graph, self._shapes, self.config
    step = jax.jit(
      lambda weights, state, batch: reference.micro_step(
        nnx.merge(graph, weights), state, shapes, config, batch
      )[0]
    )
    turns, held = itertools.cycle(self.batches), {"state": self.state}

    def run() -> Any:
      held["state"] = step(self._model.params, held["state"], next(turns))
      return held["state"].step

    return run

  def lengths(self) -> dict[str, float]:
    """Mean tokens of an episode's edit and of what must stay."""
    edit, kept = (
      float(np.mean([int(getattr(text, name).sum()) for text in self.texts]))
      for name in ("mask", "loc_mask")
    )
    return {"peer_edit_tokens": edit, "peer_query_tokens": kept}
