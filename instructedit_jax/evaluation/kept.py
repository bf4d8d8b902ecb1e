"""An editor whose edits are kept while several query styles ask of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.catalogue import UsableEditor
from instructedit_jax.evaluation.wrapped import Wrapped
from instructedit_jax.models.language_model import LanguageModel


@dataclasses.dataclass
class _Held:
  """Edits of one batch, how often they may still be asked for, their size."""

  edit: Any
  left: int
  size: int


class Kept(Wrapped):
  """Another editor, which is asked once for what is wanted several times.

  An edit does not depend on how the edited model is questioned, and for
  fine-tuning it is what takes the time.

  Args:
    inner: proposes the edits.
    times: how often each batch of requests will be asked for.
    max_bytes: of edits in the device's memory; those that no longer fit are
      proposed again.
  """

  def __init__(self, inner: UsableEditor, times: int, max_bytes: int = 1 << 30):
    super().__init__(inner)
    self._times = times
    self._free = max_bytes
    self._held: dict[Any, _Held] = {}

  def skip(self) -> None:
    """Every batch will be asked for once less."""
    self._times -= 1

  def clear(self) -> None:
    """Lets go of what was kept and not asked for again."""
    self._free += sum(held.size for held in self._held.values())
    self._held.clear()

  def propose_each(
    self,
    model: LanguageModel,
    requests: Sequence[Request],
    cache: PrefixCache | None = None,
  ) -> Any:
    """The editor's edits of these requests, kept or made now."""
    key = (model.fingerprint, tuple(requests))
    held = self._held.get(key)
    if held is not None:
      held.left -= 1
      if not held.left:
        self._free += self._held.pop(key).size
      return held.edit
    edit = self.inner.propose_each(model, requests, cache)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(edit))
    if self._times > 1 and size <= self._free:
      self._free -= size
      self._held[key] = _Held(edit, self._times - 1, size)
    return edit
