"""Instructions: what kind of change an edit is, in front of its prompt.

An instructed prompt has three lines: the task's name, a description, and the
prompt itself as the input. The answer follows after a blank.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

from instructedit_jax.errors import UserError
from instructedit_jax.tasks import drawing
from instructedit_jax.tasks.descriptions import HELD_OUT, SEEN
from instructedit_jax.tasks.record import TASKS, Record

TEMPLATE = "Task: {task}\nDescription: {description}\nInput: {prompt}"
LABEL, TOPIC = "[LABEL]", "[TOPIC]"

Split = Literal["seen", "held_out"]


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A task's name and a one-line description; the description may be empty.

  Any text will do, as in Instruction("my task", "Correct the opening hours.").
  """

  task: str
  description: str

  def __post_init__(self):
    for field in ("task", "description"):
      value = getattr(self, field).strip()
      if "\n" in value or "\r" in value:
        raise UserError(
          f"Instruction.{field} must be one line, as each line of the template"
          f" has its own meaning; got {value!r}."
        )
      object.__setattr__(self, field, value)
    if not self.task:
      raise UserError("Instruction.task is empty. Name the kind of edit.")

  def prefix(self) -> str:
    """The text before the prompt; ends with "Input: "."""
    return self.apply("")

  def alone(self) -> str:
    """The text that stands for it where there is no prompt."""
    return self.prefix().rstrip()

  def apply(self, prompt: str) -> str:
    """The instructed prompt."""
    return TEMPLATE.format(
      task=self.task, description=self.description, prompt=prompt
    )


@dataclasses.dataclass(frozen=True)
class InstructionPool:
  """A task's descriptions: those for training, and those only for tests.

  They may hold [LABEL] and [TOPIC], which stand for the wanted sentiment and
  the topic of a ConvSent record.
  """

  task: str
  seen: tuple[str, ...]
  held_out: tuple[str, ...] = ()

  def __post_init__(self):
    if not self.seen:
      raise UserError(f"The instruction pool of {self.task!r} is empty.")
    for description in (*self.seen, *self.held_out):
      Instruction(self.task, description)  # which refuses several lines
    both = set(self.seen) & set(self.held_out)
    if both:
      raise UserError(
        f"Descriptions of {self.task!r} are both seen and held out: {both}."
      )

  def of(self, split: Split) -> tuple[str, ...]:
    """The descriptions of a split.

    Raises:
      UserError: the split has another name, or it is empty.
    """
    if split not in ("seen", "held_out"):
      raise UserError(
        f"Instruction split {split!r} must be 'seen' or 'held_out'."
      )
    found = self.seen if split == "seen" else self.held_out
    if not found:
      raise UserError(f"Task {self.task!r} has no {split} descriptions.")
    return found


Pools = Mapping[str, InstructionPool]
POOLS: Pools = {
  task: InstructionPool(task, SEEN[task], HELD_OUT[task]) for task in TASKS
}


def draw(
  rng: np.random.Generator,
  record: Record,
  split: Split = "seen",
  pools: Pools = POOLS,
) -> Instruction:
  """A random instruction for a record, its placeholders filled.

  Raises:
    UserError: the record's task has no pool; give it an `Instruction`.
  """
  return _filled(record, drawing.one(rng, _pool(record, pools).of(split)))


def fixed(
  record: Record, which: int | str = 0, pools: Pools = POOLS
) -> Instruction:
  """The same instruction for all records of a task, its placeholders filled.

  Args:
    record: gives the task, and the sentiment and topic for ConvSent.
    which: "seen:3" or "held_out:0", or an index into the seen descriptions
      followed by the held-out ones.
    pools: by task.

  Raises:
    UserError: there is no such description.
  """
  pool = _pool(record, pools)
  choices, index = pool.seen + pool.held_out, which
  if isinstance(which, str):
    split, _, number = which.partition(":")
    if not number.isdecimal():
      raise UserError(
        f"Instruction {which!r} must be like 'seen:0' or 'held_out:2'."
      )
    choices, index = pool.of(split), int(number)  # type: ignore[arg-type]
  assert isinstance(index, int)
  if not 0 <= index < len(choices):
    raise UserError(
      f"Task {record.task!r} has no instruction {which!r}; there are"
      f" {len(pool.seen)} seen and {len(pool.held_out)} held out, from 0."
    )
  return _filled(record, choices[index])


def load_pools(path: str | os.PathLike[str]) -> dict[str, InstructionPool]:
  """Reads pools from JSON: {tasks: {task: {train: [...], held_out: [...]}}}.

  Raises:
    UserError: no such file, or it has another layout.
  """
  source = pathlib.Path(path)
  try:
    raw = json.loads(source.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{source}: not a readable JSON file: {error}") from None
  tasks = raw.get("tasks") if isinstance(raw, Mapping) else None
  if not isinstance(tasks, Mapping) or not tasks:
    raise UserError(f"{source}: needs a field 'tasks', a dict by task name.")
  pools = {}
  for task, lists in tasks.items():
    for field in ("train", "held_out"):
      values = lists.get(field, []) if isinstance(lists, Mapping) else None
      if not isinstance(values, list) or not all(
        isinstance(value, str) and value.strip() for value in values
      ):
        raise UserError(
          f"{source}, task {task!r}, field {field!r}: must be a list of texts."
        )
    try:
      pools[task] = InstructionPool(
        task, tuple(lists.get("train", ())), tuple(lists.get("held_out", ()))
      )
    except UserError as error:
      raise UserError(f"{source}: {error}") from None
  return pools


def fill(description: str, sentiment: str, topic: str) -> str:
  """A description with its placeholders, if it has any, filled in."""
  # The topic last: whatever it contains is not a placeholder any more.
  return description.replace(LABEL, sentiment).replace(TOPIC, topic)


def _pool(record: Record, pools: Pools) -> InstructionPool:
  if record.task not in pools:
    raise UserError(
      f"No instructions for task {record.task!r}, only for"
      f" {', '.join(pools)}. Give an Instruction(task, description)."
    )
  return pools[record.task]


def _filled(record: Record, description: str) -> Instruction:
  conversation = record.conversation
  if LABEL in description and conversation is None:
    raise UserError(
      f"Record {record.id}: the instruction names a sentiment, but the record"
      " has no conversation to tell which."
    )
  sentiment = "" if conversation is None else conversation.wanted
  filled = fill(description, sentiment, record.subject)
  return Instruction(record.task, filled)
