"""Which instruction an editor gets: the right one, another one, or none.

  seen:K, held_out:K  the task's description K of that split
  name                the task's name, without a description
  nonsense:K          unrelated words, about as long as held_out:K, under a name
                      that says nothing; the same for all records of a task
  other:K             seen:K of another task, always the same one, and its name
  shuffled:K          seen:K of a task drawn for each record, with its name
  none                no instruction at all
  natural:K           a user's own words, without the task's name (`natural`)
  CHOICE+wide:K       one of the above and how far the edit reaches: to every
  CHOICE+verbatim:K   wording of the question, or to its own alone (`scopes`)

Those from `nonsense` to `none` tell what an instruction does by its meaning
from what it does by being there.
"""

import zlib
from collections.abc import Mapping

import numpy as np

from instructedit_jax.errors import UserError
from instructedit_jax.evaluation.natural import NATURAL, sentence
from instructedit_jax.tasks import drawing, instructions, scopes
from instructedit_jax.tasks.instructions import (
  Instruction,
  InstructionPool,
  fill,
)
from instructedit_jax.tasks.record import Record

NONE, NAME = "none", "name"
# Words that say nothing about tasks, by their number of letters.
_WORDS = {
  1: ("a",),
  2: ("of", "by", "at", "on", "up", "as"),
  3: ("oak", "jar", "fog", "hen", "mud", "rug", "tin", "bay"),
  4: ("lamp", "goat", "silk", "moss", "barn", "wolf", "drum", "leaf"),
  5: ("river", "stone", "green", "table", "cloud", "horse", "bread", "plant"),
  6: ("garden", "silver", "bridge", "window", "yellow", "carpet", "butter"),
  7: ("blanket", "kitchen", "evening", "chimney", "lantern", "orchard"),
  8: ("mountain", "umbrella", "sandwich", "elephant", "cupboard"),
  9: ("chocolate", "butterfly", "fireplace", "raspberry", "afternoon"),
  10: ("watermelon", "strawberry", "toothbrush", "gooseberry"),
}


def chosen(
  record: Record, choice: str, pools: Mapping[str, InstructionPool]
) -> Instruction | None:
  """The instruction that `choice`, one of the above, means for a record.

  Args:
    record: gives the task, and what fills a description's placeholders.
    choice: as in the module's docstring.
    pools: descriptions by task.

  Raises:
    UserError: no such choice, or there is no such description.
  """
  choice, _, scope = choice.partition("+")
  if scope:
    told = chosen(record, choice, pools)
    if told is None:
      raise UserError(f"instruction {choice}+{scope}: a scope of nothing")
    reach, _, number = scope.partition(":")
    return scopes.stated(told, scopes.fixed(reach, number))
  if choice == NONE:
    return None
  if choice == NAME:
    return Instruction(record.task, "")
  kind, _, number = choice.partition(":")
  if kind == NATURAL:
    return sentence(record, number)
  if kind not in ("nonsense", "other", "shuffled"):
    return instructions.fixed(record, choice, pools)
  if not number.isdecimal():
    raise UserError(f"instruction {choice!r}: write {kind}:K, as in {kind}:0")
  if kind == "nonsense":
    return _nonsense(record, number, pools)
  tasks = list(pools)
  if kind == "shuffled":
    task = tasks[zlib.crc32(record.id.encode()) % len(tasks)]
  elif len(pools) < 2:
    raise UserError(f"instruction {choice!r}: there is only one task's pool")
  else:
    # A task of the user's own is before the first one.
    place = tasks.index(record.task) if record.task in tasks else -1
    task = tasks[(place + 1) % len(tasks)]
  return _of_task(record, task, int(number), pools[task])


def _nonsense(
  record: Record, number: str, pools: Mapping[str, InstructionPool]
) -> Instruction:
  real = instructions.fixed(record, f"held_out:{number}", pools)
  rng = np.random.default_rng(zlib.crc32(f"{record.task}:{number}".encode()))

  def word(like: str) -> str:
    words = _WORDS[min(len(like), max(_WORDS))]
    return drawing.one(rng, words)

  name = word(real.task)
  words = [word(text) for text in real.description.split()]
  return Instruction(name, " ".join(words).capitalize() + ".")


def _of_task(
  record: Record, task: str, number: int, pool: InstructionPool
) -> Instruction:
  if number >= len(pool.seen):
    raise UserError(
      f"task {task!r} has no instruction 'seen:{number}'; there are"
      f" {len(pool.seen)} seen, from 0"
    )
  conversation = record.conversation
  label = "positive" if conversation is None else conversation.wanted
  return Instruction(task, fill(pool.seen[number], label, record.subject))
