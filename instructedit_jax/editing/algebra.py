"""What all kinds of edits that add something to a matrix's output share."""

from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np

from instructedit_jax.editing import merging
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import LanguageModel


class Indexed:
  """A pytree that may hold independent edits along a leading axis."""

  @property
  def count(self) -> int:
    """Of the leading axis: how many edits there are, if it is batched."""
    return jax.tree.leaves(self)[0].shape[0]

  def __getitem__(self, index: int | slice | np.ndarray | jax.Array) -> Self:
    """One (or some) of a batch of independent edits.

    Raises:
      IndexError: there is no such edit; so a loop over a batch ends.
    """
    # An array out of range would take the last edit without a word.
    if isinstance(index, int) and not -self.count <= index < self.count:
      raise IndexError(f"edit {index} of {self.count}")
    if isinstance(index, np.ndarray) and index.dtype != bool:
      return _taken(self, index)
    return jax.tree.map(lambda leaf: leaf[index], self)


@jax.jit
def _taken(edits: Any, index: jax.Array) -> Any:
  """Some of a batch, in one program: evaluation does it for every few rows."""
  return jax.tree.map(lambda leaf: leaf[index], edits)


class Additive(Indexed):
  """Edits with multiples and sums; a class defines `scale` and `__add__`."""

  def scale(self, factor: float | jax.Array) -> Self:
    """What is added, times `factor`."""
    raise NotImplementedError

  def __add__(self, other: Any) -> Self:
    raise NotImplementedError

  def __neg__(self) -> Self:
    return self.scale(-1.0)

  def __sub__(self, other: Any) -> Self:
    return self + (-other)


class Mergeable(Additive):
  """Additive edits of weights; a class defines `dense` as well."""

  def dense(self) -> Mapping[str, jax.Array]:
    """name -> the update itself, [n, m] or [B, n, m]."""
    raise NotImplementedError

  @property
  def batched(self) -> bool:
    """Whether this holds independent edits along a leading axis."""
    return jax.tree.leaves(self)[0].ndim == 3

  def merge(self, model: LanguageModel) -> LanguageModel:
    """A new model with this edit in its weights; see `merging.merge`.

    Raises:
      UserError: the edit does not fit the model, or holds several independent
        edits; index it or take `combined()` first.
    """
    if self.batched:
      raise UserError(
        f"{len(jax.tree.leaves(self)[0])} independent edits cannot be merged"
        " into one model; take edit.combined() or one of them, edit[0]"
      )
    return merging.merge(model, self.dense())
