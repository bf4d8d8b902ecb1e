"""The published recipe's data: records, and batches padded on the left.

What the authors' loader does once it does once here too: an instruction and an
alias for every locality answer are drawn when the records are loaded and kept
for all epochs. Records it would crash on are left out and counted.

Facts: the edit prompt stands behind its instruction, locality prompts do not.
Opinions (ConvSent): the edit is made by replies of both sentiments to questions
about the topic, without an instruction, and the next topic's are to be kept.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import logging

from instructedit_jax.editing.sequences import bucket
from instructedit_jax.editors.reference import Batch
from instructedit_jax.errors import UserError
from instructedit_jax.models.tokenizer import Tokenizer
from instructedit_jax.tasks import drawing, instructions
from instructedit_jax.tasks.instructions import Pools
from instructedit_jax.tasks.record import Conversation, Record
from instructedit_jax.tasks.splits import load_split

# Random streams of one seed.
_LOAD, _EPOCH = 0, 1
# Between a question and a reply. The authors make it a token of its own; here
# it is spelled with the tokens the model has.
_SEPARATOR = "</s>"
# Sizes are rounded up to these, so that few programs are compiled.
_STRINGS = (4, 8, 16, 32)
_TOKENS = (32, 64, 128)
_ANSWERS = (8,)


@dataclasses.dataclass(frozen=True)
class Example:
  """One micro-step's texts.

  Attributes:
    edit: the strings that make the edit: one for a fact.
    target: the answer at the end of a fact's string; "" for opinions.
    kept: strings that must not change, with their answers ("" for opinions,
      where all of a string counts).
    same: for opinions, whether each edit string has the wanted sentiment.
  """

  edit: tuple[str, ...]
  target: str
  kept: tuple[tuple[str, str], ...]
  same: tuple[bool, ...] = ()


def load_examples(
  data: str,
  tasks: Sequence[str],
  limits: Mapping[str, int],
  seed: int,
  *,
  pools: Pools | None = None,
) -> list[Example]:
  """The training examples of all tasks, one list after the other.

  Args:
    data: "embedded", "hub" or a folder.
    tasks: their order decides what is drawn for each record.
    limits: by task, at most so many records, drawn at random; absent is all.
    seed: of instructions, aliases, questions and what `limits` leaves.
    pools: descriptions by task; None trains without instructions (MEND).

  Raises:
    UserError: a task cannot be loaded or has no usable record.
  """
  rng = np.random.default_rng([seed, _LOAD])
  examples: list[Example] = []
  for task in tasks:
    records, report = load_split(data, task, "train")
    logging.info("%s", report)
    if task in limits and limits[task] < len(records):
      chosen = rng.choice(len(records), limits[task], replace=False)
      records = [records[i] for i in sorted(chosen)]
    made = [_example(records, i, rng, pools) for i in range(len(records))]
    usable = [example for example in made if example is not None]
    logging.info(
      "%s: %d of %d records have nothing to keep (or, for opinions, no reply of"
      " the other sentiment) and are left out; %d train",
      task,
      len(made) - len(usable),
      len(made),
      len(usable),
    )
    if not usable:
      raise UserError(
        f"{data}: no training record of task {task!r} has locality probes,"
        " which this recipe needs; take the task out of config.tasks"
      )
    examples += usable
  return examples


class Order:
  """Which example each micro-step takes: epochs, each shuffled anew.

  All examples are one list: a task's share is its number of records.
  """

  def __init__(self, count: int, seed: int):
    self._count, self._seed = count, seed
    self._epoch, self._places = -1, np.zeros(0, int)

  def __call__(self, step: int) -> int:
    """The index for a step, from 0; a pure function of seed and step."""
    epoch, place = divmod(step, self._count)
    if epoch != self._epoch:
      rng = np.random.default_rng([self._seed, _EPOCH, epoch])
      self._epoch, self._places = epoch, rng.permutation(self._count)
    return int(self._places[place])


def make_batch(text: Tokenizer, example: Example, max_tokens: int) -> Batch:
  """Tokenises and pads; strings are cut on the right at `max_tokens`.

  An answer's labels are its tokens when tokenised alone, after a blank, with
  the model's BOS if it has one: where that differs from the tokens it has in
  the string, as for Llama 2, some labels meet the prompt's last tokens instead.
  That is the published behaviour.
  """

  def ids(string: str) -> list[int]:
    return text.encode(string)[:max_tokens]

  edit, fill = _left([ids(s) for s in example.edit], text.pad_id)
  kept, loc_fill = _left([ids(s) for s, _ in example.kept], text.pad_id)
  same: np.ndarray | None = None
  if example.same:
    labels = np.where(edit[1] != 0, edit[0], -100)
    # Without further padding nothing would predict the first column.
    labels[:, fill] = -100
    answer_mask, same = kept[1], np.zeros(len(labels), bool)
    same[: len(example.same)] = example.same
  else:
    labels = np.full((1, edit[0].shape[1] - 1), -100, np.int32)
    target = ids(f" {example.target}")[: labels.shape[1]]
    labels[0, -len(target) :] = target
    answers = [ids(f" {answer}") for _, answer in example.kept]
    answer_mask = _ends(kept[1], answers)
  return Batch(
    tokens=edit[0],
    mask=edit[1],
    labels=labels,
    loc_tokens=kept[0],
    loc_mask=kept[1],
    answer_mask=answer_mask,
    same=same,
    fill=np.int32(fill),
    loc_fill=np.int32(loc_fill),
  )


def _left(
  strings: Sequence[Sequence[int]], pad: int
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
  """Tokens and mask [B, T], and the columns in front that nobody needs."""
  longest = max(len(string) for string in strings)
  rows = 1 if len(strings) == 1 else bucket(len(strings), _STRINGS)
  width = bucket(longest, _TOKENS)
  tokens = np.full((rows, width), pad, np.int32)
  mask = np.zeros((rows, width), np.int32)
  for row, string in enumerate(strings):
    tokens[row, width - len(string) :] = string
    mask[row, width - len(string) :] = 1
  return (tokens, mask), width - longest


def _ends(kept: np.ndarray, answers: Sequence[Sequence[int]]) -> np.ndarray:
  """The answers' mask [C, A], padded like `kept`, that of their strings."""
  longest = max(len(answer) for answer in answers)
  width = min(bucket(longest, _ANSWERS), kept.shape[1])
  mask = np.zeros((len(kept), width), np.int32)
  for row, answer in enumerate(answers):
    mask[row, max(width - len(answer), 0) :] = 1
  return mask


def _example(
  records: Sequence[Record],
  index: int,
  rng: np.random.Generator,
  pools: Pools | None,
) -> Example | None:
  """None if the published loss is undefined for the record."""

  def one_of(texts: Sequence[str]) -> str:
    return drawing.one(rng, texts)

  record = records[index]
  if record.conversation is not None:
    return _opinions(record.conversation, _next_topic(records, index), one_of)
  if not record.locality:
    return None
  prompt = record.prompt
  if pools is not None:
    prompt = instructions.draw(rng, record, "seen", pools).apply(prompt)
  answers = [one_of(probe.answers) for probe in record.locality]
  return Example(
    edit=(f"{prompt} {record.target}",),
    target=record.target,
    kept=tuple(
      (f"{probe.prompt} {answer}", answer)
      for probe, answer in zip(record.locality, answers, strict=True)
    ),
  )


def _opinions(
  topic: Conversation,
  other: Conversation | None,
  one_of: Callable[[Sequence[str]], str],
) -> Example | None:
  if other is None or not topic.opposite:
    return None

  def said(about: Conversation) -> tuple[str, ...]:
    return tuple(
      f"{one_of(about.questions)} {_SEPARATOR} {reply}"
      for reply in about.positive + about.negative
    )

  positive = topic.wanted == "positive"
  return Example(
    edit=said(topic),
    target="",
    kept=tuple((string, "") for string in said(other)),
    same=(positive,) * len(topic.positive)
    + (not positive,) * len(topic.negative),
  )


def _next_topic(records: Sequence[Record], index: int) -> Conversation | None:
  """The conversation of the next record on another topic, in a ring."""
  for step in range(1, len(records)):
    other = records[(index + step) % len(records)]
    if other.conversation and other.subject != records[index].subject:
      return other.conversation
  return None
