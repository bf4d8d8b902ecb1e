"""From records to batches: a pure function of (seed, step), read ahead."""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import logging

from instructedit_jax.editing import prefix_store
from instructedit_jax.editing.sequences import (
  Scored,
  TooLongError,
  row_length,
  score,
)
from instructedit_jax.editors.trained import instruction_sequence
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks import instructions, scopes
from instructedit_jax.tasks.mixture import Mixture
from instructedit_jax.tasks.record import Record
from instructedit_jax.tasks.set_aside import hold_out
from instructedit_jax.tasks.splits import load_split
from instructedit_jax.training.batches import Batch, Batcher, fitting
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.episodes import Episode, EpisodeMaker, Score
from instructedit_jax.training.scoped import ScopedMaker

# New prefix states are computed for this many steps at once: a large batch.
_AHEAD = 32
# Random streams of one seed.
_TRAIN, _VALIDATE = 0, 1
# A batch's episodes, and their instructions as sequences.
Drawn = tuple[list[Episode], list[Scored]]


class Episodes:
  """The episodes of a run, and their batches.

  Args:
    model: tokenises and gives prefix states.
    config: the run.
    records: by task; `validation_records` of each are set aside.

  Raises:
    UserError: a task without instructions, no record that fits, fewer
      validation records than one batch takes, or a store that cannot be used.
  """

  def __init__(
    self,
    model: LanguageModel,
    config: TrainConfig,
    records: dict[str, list[Record]],
  ):
    self._model, self._config = model, config
    self._score = _remembering_score(model)
    self._pools = _pools(config, records)
    usable = {task: self._usable(task, rs) for task, rs in records.items()}
    split = {
      task: hold_out(rs, config.validation_records)
      for task, rs in usable.items()
    }
    train = {task: pair[0] for task, pair in split.items()}
    self.validation = in_turn([held for _, held in split.values()])
    if len(self.validation) < config.batch_size:
      raise UserError(
        f"config.validation_records: {len(self.validation)} records are held"
        f" out over all tasks, config.batch_size = {config.batch_size} needs as"
        " many; raise the one or lower the other"
      )
    self.mixture = Mixture(train, config.weights, config.seed)
    everyone = [r for rs in train.values() for r in rs]
    make = EpisodeMaker(
      config.episode, config.editor, self._score, everyone, self._pools
    )
    self._maker = ScopedMaker(make, config.episode.scoped)
    self.cache = prefix_store.open_cache(
      model, config.prefix_cache, int(config.prefix_cache_gb * 2**30)
    )
    self._batcher = Batcher(self.cache, config.shape, model.config.width)

  def batches(
    self,
    start: int,
    rows: Sequence[int] | None = None,
    turn: contextlib.AbstractContextManager[Any] | None = None,
  ) -> Iterator[Batch]:
    """Batches from step `start` on, the next ones prepared by a thread.

    On one machine and as many processes, each is the same to the bit wherever
    a run starts (unless other runs add to its store of prefix states
    meanwhile).

    Args:
      start: steps done before.
      rows: of every batch, those wanted here; all by default.
      turn: held while prefix states are computed.
    """
    turn = turn or contextlib.nullcontext()
    chunks: dict[int, list[Drawn]] = {}

    def build(step: int) -> Batch:
      first = step - step % _AHEAD
      with turn:
        if not chunks:
          self._plan_until(first, rows)
        if first not in chunks:
          chunks.clear()
          chunks[first] = self._chunk(first, rows)
          self.cache.warm(self._read_by(chunks[first][step - first :]))
        return self._batcher(*chunks[first][step - first])

    # One thread, in the order of steps. Batches hold megabytes: two are ready.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    steps = grain.MapDataset.range(start, self._config.steps).map(build)
    yield from steps.to_iter_dataset(options)

  def validation_batches(
    self, rows: Sequence[int] | None = None
  ) -> list[Batch]:
    """The same episodes every time, one of each validation record.

    The last records are left out where they do not fill a batch.

    Args:
      rows: of every batch, those wanted here; all by default.
    """
    return [self._batcher(*item) for item in self._validation(rows)]

  def _plan_until(self, first: int, rows: Sequence[int] | None) -> None:
    """Plans all prefix states of the steps before `first`.

    Hence a run that goes on there reads the very states of one that never
    stopped, whichever of them it has to compute again.
    """
    self._validation(rows)
    for before in range(0, first, _AHEAD):
      self._chunk(before, rows)

  def _validation(self, rows: Sequence[int] | None) -> list[Drawn]:
    """The episodes of all validation batches; their states are planned."""
    size = self._config.batch_size
    starts = range(0, len(self.validation) - size + 1, size)
    drawn = [
      self._rows(self.validation[i : i + size], rows, (_VALIDATE, number))
      for number, i in enumerate(starts)
    ]
    self.cache.plan(self._read_by(drawn))
    return drawn

  def _chunk(self, first: int, rows: Sequence[int] | None) -> list[Drawn]:
    """The episodes of a chunk of steps; their prefix states are planned."""
    size = self._config.batch_size
    drawn = [
      self._rows(self.mixture.batch(step, size), rows, (_TRAIN, step))
      for step in range(first, min(first + _AHEAD, self._config.steps))
    ]
    self.cache.plan(self._read_by(drawn))
    return drawn

  def _read_by(self, drawn: Sequence[Drawn]) -> list[Scored]:
    """All sequences whose prefix states these batches hold."""
    return [
      sequence
      for episodes, told in drawn
      for sequence in (*_sequences(episodes, self._batcher), *told)
    ]

  def _rows(
    self,
    records: Sequence[Record],
    rows: Sequence[int] | None,
    stream: tuple[int, int],
  ) -> Drawn:
    """Some rows of a batch; each by itself, so nobody draws another's."""
    episodes, told = [], []
    for row in range(len(records)) if rows is None else rows:
      rng = np.random.default_rng([self._config.seed, *stream, row])
      drawn = self._draw([records[row]], rng)
      episodes += drawn[0]
      told += drawn[1]
    return episodes, told

  def _draw(self, records: Sequence[Record], rng: np.random.Generator) -> Drawn:
    episodes = [self._maker(record, rng) for record in records]
    told = [
      instruction_sequence(self._model, episode.instruction)
      for episode in episodes
    ]
    return episodes, told

  def _usable(self, task: str, records: Sequence[Record]) -> list[Record]:
    """Leaves out, and names, records whose edit is too long for a row."""
    limit, shape = self._config.episode.target_tokens, self._config.shape
    context, sentence = self._model.config.context, self._longest_scope()
    numbers = self._longest_descriptions(task)

    def fits(record: Record, number: int) -> bool:
      own = instructions.fixed(record, number, self._pools)
      own = scopes.stated(own, sentence)
      texts = self._config.editor.views(own, record.prompt)
      try:
        views = [self._score(text, record.target, limit) for text in texts]
      except TooLongError:
        return False
      rows = sum(len(view.labels) for view in views)
      return row_length(views) <= shape.edit_tokens and rows <= shape.edit_rows

    kept = [r for r in records if all(fits(r, number) for number in numbers)]
    if len(kept) < len(records):
      logging.info(
        "%s: %d of %d records do not fit shape.edit_tokens=%d and"
        " shape.edit_rows=%d, or the model's context of %d tokens, and are"
        " left out",
        *(task, len(records) - len(kept), len(records)),
        *(shape.edit_tokens, shape.edit_rows, context),
      )
    if not kept:
      raise UserError(
        f"task {task}: no record fits config.shape.edit_tokens ="
        f" {shape.edit_tokens}, edit_rows = {shape.edit_rows} and the model's"
        f" context of {context} tokens; raise the first two"
      )
    return kept

  def _longest_descriptions(self, task: str) -> list[int]:
    """Numbers of the longest descriptions for training.

    One for each number of placeholders: which of them is the longest depends on
    what is filled in.
    """
    said = self._pools[task].seen
    longest: dict[tuple[int, int], int] = {}
    for number in sorted(range(len(said)), key=lambda i: self._size(said[i])):
      text = said[number]
      gaps = text.count(instructions.LABEL), text.count(instructions.TOPIC)
      longest[gaps] = number
    return list(longest.values())

  def _longest_scope(self) -> str:
    """What may stand behind a description at most."""
    if not self._config.episode.scoped:
      return ""
    said = [s for each in scopes.SENTENCES.values() for s in each["seen"]]
    return max(said, key=self._size)

  def _size(self, text: str) -> int:
    return len(self._model.text.encode(f" {text}"))


def _remembering_score(model: LanguageModel) -> Score:
  """`score` by a model's tokenizer; most texts are asked for many times.

  What it remembers must go with the run: a cache on a method would keep the
  model and all prefix states of every run of a process.
  """
  text, context = model.text, model.config.context

  @functools.lru_cache(1 << 18)
  def remembering(prompt: str, target: str, limit: int) -> Scored:
    return score(text, prompt, target, context=context, limit=limit)

  return remembering


def _pools(config: TrainConfig, tasks: Iterable[str]) -> instructions.Pools:
  """The instructions of a run, of which every task needs some."""
  pools = instructions.POOLS
  if config.instructions:
    pools = instructions.load_pools(config.instructions)
  for task in tasks:
    if task not in pools:
      where = config.instructions or "this project"
      raise UserError(
        f"config.tasks.{task}: {where} has no instructions for it, only for"
        f" {', '.join(pools)}; give a file that does with"
        " --config.instructions=FILE"
      )
  return pools


def in_turn(groups: Sequence[Sequence[Record]]) -> list[Record]:
  """The records of all groups, each spread evenly over the whole list."""
  placed = [
    ((number + 0.5) / len(group), record)
    for group in groups
    for number, record in enumerate(group)
  ]
  return [record for _, record in sorted(placed, key=lambda pair: pair[0])]


def load_records(config: TrainConfig) -> dict[str, list[Record]]:
  """The records of every task that is trained on, with a line on each."""
  records = {}
  for task in config.weights:
    records[task], report = load_split(config.data, task, "train")
    logging.info("%s", report)
  return records


def _sequences(
  episodes: Sequence[Episode], batcher: Batcher
) -> Iterator[Scored]:
  for episode in episodes:
    yield from episode.edit
    for _, query in fitting(episode, batcher.shape):
      yield query
