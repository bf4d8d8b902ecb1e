"""How good a description is: what a trial editor makes of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from instructedit_jax.editors.base import Editor
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import Baseline, Options, evaluate
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks.instructions import (
  Instruction,
  InstructionPool,
  fixed,
)
from instructedit_jax.tasks.record import CONVSENT, Record

METRICS = ("reliability_em", "generalization_em", "locality_token")
# Of a reply's tokens: a weak trial editor gets few whole replies right.
CONVERSATION = (
  "reliability_token",
  "generalization_token",
  "locality_token",
)


@dataclasses.dataclass(frozen=True)
class Score:
  """How good a description is.

  Attributes:
    value: what is maximised, 0 to 100.
    tie: decides between equal values.
    parts: the metrics behind it, by name, in percent.
  """

  value: float
  tie: float = 0.0
  parts: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Scorer(Protocol):
  """Scores one description of a task on records."""

  @property
  def name(self) -> str:
    """What it is, for the provenance: equal names score alike."""

  def score(
    self, task: str, description: str, records: Sequence[Record]
  ) -> Score:
    """The description's score; placeholders are filled record by record."""


@dataclasses.dataclass(frozen=True)
class _Described(Options):
  """Options whose instruction is one description, filled for each record."""

  description: str = ""

  def instruction_of(self, record: Record) -> Instruction:
    pool = InstructionPool(record.task, (self.description,))
    return fixed(record, 0, {record.task: pool})


@dataclasses.dataclass
class EditorScorer:
  """Edits with the description and asks plain questions.

  The score is the harmonic mean of exact reliability, exact generalization
  (where the task has any) and token locality; the plain mean of the token-level
  metrics breaks ties, of which there are many where one of the three is 0.

  Attributes:
    model: the base model.
    editor: the trial editor; one that reads instructions, or all descriptions
      score alike.
    name: of the two.
    batch: records edited at once.
  """

  model: LanguageModel
  editor: Editor
  name: str
  batch: int = 16

  def __post_init__(self):
    self._baseline = Baseline(self.model)

  def score(
    self, task: str, description: str, records: Sequence[Record]
  ) -> Score:
    """Scores one description.

    Raises:
      UserError: no record could be evaluated.
    """
    results = evaluate(
      self.model,
      self.editor,
      records,
      options=_Described(
        batch=self.batch,
        free=False,
        fluency_limit=0,
        resamples=1,
        description=description,
      ),
      baseline=self._baseline,
    )
    if not results.records:
      record, reason = results.failed[0]
      raise UserError(f"no record could be edited; {record}: {reason}")
    means = {row.metric: row.value for row in results.rows()}
    asked = CONVERSATION if task == CONVSENT else METRICS
    parts = {name: means[name] for name in asked if name in means}
    tokens = [means[name] for name in CONVERSATION if name in means]
    tie = sum(tokens) / len(tokens) if tokens else 0.0
    return Score(harmonic(list(parts.values())), tie, parts)


def harmonic(values: Sequence[float]) -> float:
  """Harmonic mean; 0 if any value is 0, or there is none."""
  if not values or min(values) <= 0:
    return 0.0
  return len(values) / sum(1 / value for value in values)


def as_dict(score: Score) -> dict[str, Any]:
  """Plain values, for JSON."""
  return {
    "value": round(score.value, 4),
    "tie": round(score.tie, 4),
    "parts": {name: round(value, 4) for name, value in score.parts.items()},
  }
