"""Which records make up which training step.

A pure function of (seed, step): a resumed run goes on with the very records it
would have seen, without a saved position.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from instructedit_jax.errors import UserError
from instructedit_jax.tasks.record import Record

# The slots of training are dealt out in blocks, each with the exact shares in
# random order; hence the position within every task is known without replaying
# the past. 960 divides evenly by most numbers of tasks.
_BLOCK = 960
# Separate random streams for the same seed.
_DEAL, _SHUFFLE = 0, 1


class Mixture:
  """Task-balanced, deterministic, resumable batches of records.

  The task of each slot follows the weights; within every 960 slots the shares
  are exact (up to 1/960, and a task with any weight gets at least one slot).
  Each task is walked in shuffled epochs: every record once, then a new order.
  """

  def __init__(
    self,
    records_by_task: Mapping[str, Sequence[Record]],
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
  ):
    """Takes equal weights by default; weights need not sum to one.

    Raises:
      UserError: there is no task, a task is empty, the seed is negative, or
        the weights are negative, all zero, or of other tasks.
    """
    weights = _checked(records_by_task, weights)
    if seed < 0:
      raise UserError(f"The mixture's seed is {seed}; it must not be negative.")
    # A weight of zero leaves a task out, also from the arithmetic below.
    self.records = {
      task: tuple(records)
      for task, records in records_by_task.items()
      if weights[task] > 0
    }
    self.seed = seed
    self._tasks = tuple(self.records)
    self._quota = _quotas([weights[task] for task in self._tasks])
    self._block = functools.lru_cache(maxsize=4)(self._deal)
    self._order = functools.lru_cache(maxsize=4 * len(self._tasks))(
      self._shuffle
    )

  def batch(self, step: int, size: int) -> list[Record]:
    """The records of one step.

    Args:
      step: from 0.
      size: records per step; the same at every step of a run.
    """
    if step < 0 or size < 1:
      raise UserError(f"No batch of {size} records at step {step}.")
    return [self._slot(step * size + i) for i in range(size)]

  def describe(self) -> str:
    """One line a task: its records, its share, and slots per epoch."""
    lines = []
    for task, quota in zip(self._tasks, self._quota, strict=True):
      count, share = len(self.records[task]), quota / _BLOCK
      lines.append(
        f"{task}: {count} records, {share:.1%} of the mixture, an epoch every"
        f" {round(count / share)} records drawn"
      )
    return "\n".join(lines)

  def _slot(self, slot: int) -> Record:
    block, offset = divmod(slot, _BLOCK)
    dealt, before = self._block(block)
    index = int(dealt[offset])
    task = self._tasks[index]
    position = block * self._quota[index] + int(before[offset])
    epoch, place = divmod(position, len(self.records[task]))
    return self.records[task][int(self._order(task, epoch)[place])]

  def _deal(self, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Task index of each slot, and that task's slots before it; both [960]."""
    rng = np.random.default_rng([self.seed, _DEAL, block])
    tasks = rng.permutation(np.repeat(np.arange(len(self._quota)), self._quota))
    before = np.zeros_like(tasks)
    for index, quota in enumerate(self._quota):
      before[tasks == index] = np.arange(quota)
    return tasks, before

  def _shuffle(self, task: str, epoch: int) -> np.ndarray:
    """The order of a task's records in one epoch, [number of records]."""
    # Keyed by name: a task's order does not depend on which others are there.
    key = zlib.crc32(task.encode())
    rng = np.random.default_rng([self.seed, _SHUFFLE, key, epoch])
    return rng.permutation(len(self.records[task]))


def _checked(
  records_by_task: Mapping[str, Sequence[Record]],
  weights: Mapping[str, float] | None,
) -> Mapping[str, float]:
  if not records_by_task:
    raise UserError("The mixture has no task.")
  if len(records_by_task) > _BLOCK:
    raise UserError(
      f"The mixture has {len(records_by_task)} tasks; {_BLOCK} is the most."
    )
  for task, records in records_by_task.items():
    if not records:
      raise UserError(f"Task {task!r} of the mixture has no records.")
  if weights is None:
    return dict.fromkeys(records_by_task, 1.0)
  if set(weights) != set(records_by_task):
    raise UserError(
      f"The mixture's weights are for {sorted(weights)}, its tasks are"
      f" {sorted(records_by_task)}. Give one weight to each; 0 leaves it out."
    )
  values = list(weights.values())
  if not all(0 <= value < float("inf") for value in values) or not any(values):
    raise UserError(
      f"The mixture's weights must be finite, not negative and not all zero;"
      f" got {dict(weights)}."
    )
  return weights


def _quotas(weights: Sequence[float]) -> list[int]:
  """Slots of each task per block: at least one, 960 in all."""
  shares = np.asarray(weights, np.float64)
  exact = shares / shares.sum() * _BLOCK
  quota = np.floor(exact).astype(int)
  largest = np.argsort(-(exact - quota), kind="stable")
  quota[largest[: _BLOCK - int(quota.sum())]] += 1
  for index in np.flatnonzero(quota == 0):
    quota[np.argmax(quota)] -= 1
    quota[index] = 1
  return [int(value) for value in quota]
