"""From records to batches: a pure function of (seed, step), read ahead."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import logging

from instructedit_jax.editing import prefix_store
from instructedit_jax.editing.sequences import Scored, score
from instructedit_jax.editors.trained import instruction_sequence
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks import instructions
from instructedit_jax.tasks.instructions import Instruction
from instructedit_jax.tasks.mixture import Mixture
from instructedit_jax.tasks.record import Record
from instructedit_jax.tasks.splits import load_split
from instructedit_jax.training.batches import Batch, Batcher, fitting
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.episodes import Episode, EpisodeMaker
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
  """

  def __init__(
    self,
    model: LanguageModel,
    config: TrainConfig,
    records: dict[str, list[Record]],
  ):
    self._model, self._config = model, config
    pools = instructions.POOLS
    if config.instructions:
      pools = instructions.load_pools(config.instructions)
    usable = {task: self._usable(task, rs) for task, rs in records.items()}
    split = {
      task: hold_out(rs, config.validation_records)
      for task, rs in usable.items()
    }
    train = {task: pair[0] for task, pair in split.items()}
    self.validation = [r for _, held in split.values() for r in held]
    self.mixture = Mixture(train, dict(config.tasks), config.seed)
    everyone = [r for rs in train.values() for r in rs]
    make = EpisodeMaker(
      config.episode, config.editor, self._score, everyone, pools
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
    """The same episodes every time, each validation record once.

    Args:
      rows: of every batch, those wanted here; all by default.

    Raises:
      UserError: there are fewer records than one batch takes.
    """
    drawn = self._validation(rows)
    if not drawn:
      raise UserError(
        f"config.validation_records: {len(self.validation)} records are held"
        f" out over all tasks, config.batch_size = {self._config.batch_size}"
        " needs as many; raise the one or lower the other"
      )
    return [self._batcher(*item) for item in drawn]

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

  @functools.lru_cache(1 << 18)  # noqa: B019 - lives as long as the run
  def _score(self, prompt: str, target: str, limit: int) -> Scored:
    context = self._model.config.context
    return score(self._model.text, prompt, target, context=context, limit=limit)

  def _usable(self, task: str, records: Sequence[Record]) -> list[Record]:
    """Leaves out, and names, records whose edit is too long for a row."""
    limit, shape = self._config.episode.target_tokens, self._config.shape

    def fits(record: Record) -> bool:
      longest = Instruction(task, "word " * _LONGEST_DESCRIPTION)
      texts = self._config.editor.views(longest, record.prompt)
      views = [self._score(text, record.target, limit) for text in texts]
      tokens = sum(len(view.tokens) for view in views)
      rows = sum(len(view.labels) for view in views)
      return tokens <= shape.edit_tokens and rows <= shape.edit_rows

    kept = [record for record in records if fits(record)]
    if len(kept) < len(records):
      logging.info(
        "%s: %d of %d records do not fit shape.edit_tokens=%d and"
        " shape.edit_rows=%d and are left out",
        task,
        len(records) - len(kept),
        len(records),
        shape.edit_tokens,
        shape.edit_rows,
      )
    if not kept:
      raise UserError(
        f"task {task}: no record fits config.shape.edit_tokens ="
        f" {shape.edit_tokens}, edit_rows = {shape.edit_rows}; raise them"
      )
    return kept


# Words a description is assumed to have at most; the longest of ours has fewer.
_LONGEST_DESCRIPTION = 40


def load_records(config: TrainConfig) -> dict[str, list[Record]]:
  """The training records of every task, with a line on each."""
  records = {}
  for task, weight in config.tasks:
    if weight > 0:
      records[task], report = load_split(config.data, task, "train")
      logging.info("%s", report)
  return records


def hold_out(
  records: Sequence[Record], count: int
) -> tuple[list[Record], list[Record]]:
  """Sets the last `count` aside, with everything else about their subjects.

  At most a fifth of the records are set aside.
  """
  count = min(count, len(records) // 5)
  held = list(records[len(records) - count :])
  subjects = {record.subject for record in held}
  train = [r for r in records[: len(records) - count]]
  return [r for r in train if r.subject not in subjects], held


def _sequences(
  episodes: Sequence[Episode], batcher: Batcher
) -> Iterator[Scored]:
  for episode in episodes:
    yield from episode.edit
    for _, query in fitting(episode, batcher.shape):
      yield query
