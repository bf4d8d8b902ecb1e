"""An editor that is not told the instruction, though questions carry it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from instructedit_jax.editing.edits import Edit
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.catalogue import UsableEditor
from instructedit_jax.models.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Untold:
  """Another editor, whose requests lose their instruction on the way."""

  inner: UsableEditor

  @property
  def name(self) -> str:
    """That of the editor itself."""
    return self.inner.name

  @property
  def suffix(self) -> int:
    """Editable blocks that the model must be loaded with."""
    return self.inner.suffix

  @property
  def details(self) -> Mapping[str, Any]:
    """Those of the editor itself."""
    return self.inner.details

  def check(self, model: LanguageModel) -> None:
    """Raises a UserError unless the editor can edit `model`."""
    self.inner.check(model)

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
