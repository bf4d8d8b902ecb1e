"""An editor around another one, the same but for what a subclass changes."""

from collections.abc import Mapping, Sequence
from typing import Any

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.catalogue import UsableEditor
from instructedit_jax.models.language_model import LanguageModel


class Wrapped:
  """Passes everything on to the editor inside."""

  def __init__(self, inner: UsableEditor):
    self.inner = inner

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
  ) -> Any:
    """The editor's edits of these requests."""
    return self.inner.propose_each(model, requests, cache)

  def propose(
    self,
    model: LanguageModel,
    requests: Sequence[Request],
    cache: PrefixCache | None = None,
  ) -> Any:
    """The editor's one edit of all requests."""
    return self.inner.propose(model, requests, cache)
