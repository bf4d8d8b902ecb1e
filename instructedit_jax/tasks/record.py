"""One edit request with everything that is asked about it afterwards.

A text is tokenised as `prompt + " " + target`, so no text here begins or ends
with a blank; the classes strip what they are given and refuse empty texts.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from instructedit_jax.errors import UserError

COUNTERFACT = "counterfact"
WIKIRECENT = "wikirecent"
CONVSENT = "convsent"
ZSRE = "zsre"
TASKS = (COUNTERFACT, WIKIRECENT, CONVSENT, ZSRE)

Sentiment = Literal["positive", "negative"]


def _text(owner: object, field: str) -> None:
  """Strips one field of a frozen dataclass; refuses what is not a text."""
  value = getattr(owner, field)
  if not isinstance(value, str):
    raise UserError(
      f"{type(owner).__name__}.{field} must be a text, got"
      f" {type(value).__name__}: {value!r}."
    )
  object.__setattr__(owner, field, value.strip())


def _texts(owner: object, field: str) -> None:
  """The same for a tuple of texts. A bare text is refused, not iterated:

  iterating "male" would make the four answers m, a, l and e.
  """
  values = getattr(owner, field)
  if isinstance(values, str) or not all(isinstance(v, str) for v in values):
    raise UserError(
      f"{type(owner).__name__}.{field} must be a tuple of texts, got"
      f" {values!r}. Write ({values!r},) for a single text."
    )
  object.__setattr__(owner, field, tuple(v.strip() for v in values))


def _filled(owner: object, *fields: str) -> None:
  for field in fields:
    value = getattr(owner, field)
    if not value or (isinstance(value, tuple) and not all(value)):
      raise UserError(
        f"{type(owner).__name__}.{field} is empty: {owner!r}. Give a text or"
        " drop the item."
      )


@dataclasses.dataclass(frozen=True)
class Probe:
  """A question asked after the edit; any of `answers` is right.

  `answers[0]` is the canonical name, the others are its aliases. `kind` says
  what is tested, in the words of the data: "Relation_Specificity",
  "Forgetfulness", "Reasoning", "Subject_Aliasing", "Logical_Generalization",
  "nq", "Neighborhood", "other_topic" or whatever a user's file names.
  """

  kind: str
  prompt: str
  answers: tuple[str, ...]

  def __post_init__(self):
    _text(self, "kind")
    _text(self, "prompt")
    _texts(self, "answers")
    _filled(self, "kind", "prompt", "answers")


@dataclasses.dataclass(frozen=True)
class Conversation:
  """Questions about a topic, replies of both sentiments, and the one wanted."""

  topic: str
  questions: tuple[str, ...]
  positive: tuple[str, ...]
  negative: tuple[str, ...]
  wanted: Sentiment

  def __post_init__(self):
    _text(self, "topic")
    for field in ("questions", "positive", "negative"):
      _texts(self, field)
    if self.wanted not in ("positive", "negative"):
      raise UserError(
        f"Conversation.wanted is {self.wanted!r}; it must be 'positive' or"
        " 'negative'."
      )
    _filled(self, "topic", "questions")
    if not self.same:
      raise UserError(
        f"Conversation about {self.topic!r} has no {self.wanted} reply, the"
        " sentiment that is wanted."
      )

  @property
  def same(self) -> tuple[str, ...]:
    """Replies of the wanted sentiment; never empty."""
    return self.positive if self.wanted == "positive" else self.negative

  @property
  def opposite(self) -> tuple[str, ...]:
    """Replies of the other sentiment; may be empty."""
    return self.negative if self.wanted == "positive" else self.positive


@dataclasses.dataclass(frozen=True)
class Record:
  """One edit: make `prompt` be answered by `target`, and how to check it.

  Attributes:
    id: unique within a task and split, stable while the file is unchanged.
    task: one of `TASKS`, or a name of the user's.
    subject: what the edit is about.
    prompt: the question or cloze that is edited.
    target: the new answer.
    rephrases: other wordings of the prompt with the same answer.
    locality: probes whose answers must not change; may be empty.
    portability: probes whose answers follow from the edit; may be empty.
    conversation: the replies of both sentiments, for ConvSent only.
    ground_truth: the old answer and its aliases, where known.
    split: "train", "test", ...
    source: the file the record came from.
  """

  id: str
  task: str
  subject: str
  prompt: str
  target: str
  rephrases: tuple[str, ...] = ()
  locality: tuple[Probe, ...] = ()
  portability: tuple[Probe, ...] = ()
  conversation: Conversation | None = None
  ground_truth: tuple[str, ...] = ()
  split: str = ""
  source: str = ""

  def __post_init__(self):
    for field in ("id", "task", "subject", "prompt", "target"):
      _text(self, field)
    for field in ("rephrases", "ground_truth"):
      _texts(self, field)
    for field in ("locality", "portability"):
      probes = tuple(getattr(self, field))
      if not all(isinstance(probe, Probe) for probe in probes):
        raise UserError(f"Record.{field} must hold Probes, got {probes!r}.")
      object.__setattr__(self, field, probes)
    _filled(self, "id", "task", "prompt", "target")

  def to_dict(self) -> dict[str, Any]:
    """Plain lists, dicts and texts, for JSON; `from_dict` is its inverse."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, raw: Mapping[str, Any]) -> "Record":
    """The record that `to_dict` wrote, also after a trip through JSON."""
    conversation = raw.get("conversation")
    fields = dict(raw)
    for name in ("locality", "portability"):
      fields[name] = tuple(Probe(**_tuples(p)) for p in raw.get(name, ()))
    fields["conversation"] = (
      Conversation(**_tuples(conversation)) if conversation else None
    )
    return cls(**_tuples(fields))


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
  return {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
