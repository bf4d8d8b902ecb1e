"""An editor that is not told the instruction, though questions carry it."""

import dataclasses
from collections.abc import Sequence

from instructedit_jax.editing.edits import Edit
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors.base import Request
from instructedit_jax.evaluation.wrapped import Wrapped
from instructedit_jax.models.language_model import LanguageModel


class Untold(Wrapped):
  """Another editor, whose requests lose their instruction on the way."""

  def propose_each(
    self,
    model: LanguageModel,
    requests: Sequence[Request],
    cache: PrefixCache | None = None,
  ) -> Edit:
    """The editor's edits of the bare requests."""
    return self.inner.propose_each(model, _bare(requests), cache)

  def propose(
    self,
    model: LanguageModel,
    requests: Sequence[Request],
    cache: PrefixCache | None = None,
  ) -> Edit:
    """The editor's one edit of the bare requests."""
    return self.inner.propose(model, _bare(requests), cache)


def _bare(requests: Sequence[Request]) -> list[Request]:
  return [dataclasses.replace(each, instruction=None) for each in requests]
