"""What every editor is: requests in, an edit out.

An editor never changes the model. `propose_each` answers requests one by one
(B independent edits along a leading axis), `propose` makes one edit of all.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from instructedit_jax.editing.edits import Edit
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks.instructions import Instruction


@dataclasses.dataclass(frozen=True)
class Request:
  """One change to make: after it, `prompt` is continued by `target`.

  Attributes:
    prompt: a question or the beginning of a sentence.
    target: its new continuation, without a leading blank.
    instruction: what kind of change it is; None says nothing about it.
    other_form: the same asked otherwise, a question if `prompt` is none, for
      editors that make an edit from both; None: one made by rule.
  """

  prompt: str
  target: str
  instruction: Instruction | None = None
  other_form: str | None = None

  def __post_init__(self):
    given = ["prompt", "target"]
    if self.other_form is not None:
      given.append("other_form")
    for field in given:
      value = getattr(self, field)
      if not isinstance(value, str) or not value.strip():
        raise UserError(
          f"edit request {self.prompt!r} -> {self.target!r}: the {field} is"
          " empty; say both what is asked and what to answer"
        )
      object.__setattr__(self, field, value.strip())


class Editor(Protocol):
  """Anything that can turn requests into an edit of a model."""

  @property
  def name(self) -> str:
    """How tables call it."""

  def propose_each(
    self,
    model: LanguageModel,
    requests: Sequence[Request],
    cache: PrefixCache | None = None,
  ) -> Edit:
    """B independent edits, stacked along a leading axis.

    The cache keeps prefix states between calls. Indexing the edit with an
    array of numbers takes those requests' edits, again stacked.
    """

  def propose(
    self,
    model: LanguageModel,
    requests: Sequence[Request],
    cache: PrefixCache | None = None,
  ) -> Edit:
    """One edit that makes every request."""
