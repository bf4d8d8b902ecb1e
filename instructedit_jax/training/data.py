"""From records to batches: a pure function of (seed, step), read ahead."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

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

# New prefix states are computed for this many steps at once: a large batch.
_AHEAD = 32
# Random streams of one seed.
_TRAIN, _VALIDATE = 0, 1


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
    self._maker = EpisodeMaker(
      config.episode, config.editor, self._score, everyone, pools
    )
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
    """Batches from step `start` on, the next ones prepared meanwhile.

    Args:
      start: steps done before.
      rows: of every batch, those wanted here; all by default.
      turn: held while prefix states are computed.
    """
    steps = self._config.steps
    turn = turn or contextlib.nullcontext()

    def draw(first: int) -> list[tuple]:
      with turn:
        return self._drawn(first, rows)

    def build(*drawn: Any) -> Batch:
      with turn:
        return self._batcher(*drawn)

    with ThreadPoolExecutor(1) as worker:
      ahead: list[Future[Batch]] = []
      chunks = iter(range(start, steps, _AHEAD))
      pending = worker.submit(draw, next(chunks, steps))
      for chunk in [*chunks, None]:
        drawn = pending.result()
        if chunk is not None:
          pending = worker.submit(draw, chunk)
        # Batches hold megabytes: at most two are ready at any time.
        for item in drawn:
          ahead.append(worker.submit(build, *item))
          if len(ahead) > 2:
            yield ahead.pop(0).result()
      for future in ahead:
        yield future.result()

  def validation_batches(
    self, rows: Sequence[int] | None = None
  ) -> list[Batch]:
    """The same episodes every time, each validation record once.

    Args:
      rows: of every batch, those wanted here; all by default.

    Raises:
      UserError: there are fewer records than one batch takes.
    """
    size = self._config.batch_size
    groups = [
      self.validation[i : i + size]
      for i in range(0, len(self.validation) - size + 1, size)
    ]
    if not groups:
      raise UserError(
        f"config.validation_records: {len(self.validation)} records are held"
        f" out over all tasks, config.batch_size = {size} needs as many; raise"
        " the one or lower the other"
      )
    return [
      self._batcher(*self._rows(group, rows, (_VALIDATE, number)))
      for number, group in enumerate(groups)
    ]

  def _drawn(self, first: int, rows: Sequence[int] | None) -> list[tuple]:
    """The episodes of a chunk of steps; their prefix states are computed."""
    config = self._config
    last = min(first + _AHEAD, config.steps)
    drawn = []
    for step in range(first, last):
      records = self.mixture.batch(step, config.batch_size)
      drawn.append(self._rows(records, rows, (_TRAIN, step)))
    self.cache.warm(
      [
        sequence
        for episodes, told in drawn
        for sequence in (*_sequences(episodes, self._batcher), *told)
      ]
    )
    return drawn

  def _rows(
    self,
    records: Sequence[Record],
    rows: Sequence[int] | None,
    stream: tuple[int, int],
  ) -> tuple[list[Episode], list[Scored]]:
    """Some rows of a batch; each by itself, so nobody draws another's."""
    episodes, told = [], []
    for row in range(len(records)) if rows is None else rows:
      rng = np.random.default_rng([self._config.seed, *stream, row])
      drawn = self._draw([records[row]], rng)
      episodes += drawn[0]
      told += drawn[1]
    return episodes, told

  def _draw(
    self, records: Sequence[Record], rng: np.random.Generator
  ) -> tuple[list[Episode], list[Scored]]:
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
