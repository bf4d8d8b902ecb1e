"""Dense edits: a whole update of a matrix, as fine-tuning makes it.

Adam divides a gradient by its own size, element by element, so the update it
makes has no small rank even where every gradient has.

Axes: B independent edits, T tokens, n inputs, m outputs.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp

from instructedit_jax.editing import merging
from instructedit_jax.errors import UserError
from instructedit_jax.models.decoder import Tap
from instructedit_jax.models.language_model import LanguageModel


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseEdit:
  """W' = W + update, for each named matrix.

  Attributes:
    update: name -> [n, m] or, for B independent edits at once, [B, n, m].
  """

  update: dict[str, jax.Array]

  def tap(self) -> Tap:
    """y + x update."""

    def act(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
      if name not in self.update:
        return y
      update = self.update[name].astype(x.dtype)
      if update.ndim == 2:
        return y + x @ update
      return y + jnp.einsum("btn,bnm->btm", x, update)

    return act

  @property
  def batched(self) -> bool:
    """Whether this holds independent edits along a leading axis."""
    return next(iter(self.update.values())).ndim == 3

  def dense(self) -> dict[str, jax.Array]:
    """name -> the update itself, as a low-rank edit gives it."""
    return dict(self.update)

  def merge(self, model: LanguageModel) -> LanguageModel:
    """A new model with this edit in its weights; see `merging.merge`.

    Raises:
      UserError: the edit does not fit the model, or holds several independent
        edits; index it or take `combined()` first.
    """
    if self.batched:
      raise UserError(
        f"{len(next(iter(self.update.values())))} independent edits cannot be"
        " merged into one model; take edit.combined() or one of them, edit[0]"
      )
    return merging.merge(model, self.update)

  def scale(self, factor: float | jax.Array) -> Self:
    """The update times `factor`."""
    return jax.tree.map(lambda leaf: leaf * factor, self)

  def __neg__(self) -> Self:
    return self.scale(-1.0)

  def __add__(self, other: Self) -> Self:
    """Both updates at once."""
    if self.update.keys() != other.update.keys():
      raise ValueError("edits of different matrices cannot be added")
    return jax.tree.map(jnp.add, self, other)

  def __sub__(self, other: Self) -> Self:
    return self + (-other)

  def __getitem__(self, index: int | slice | jax.Array) -> Self:
    """One (or some) of a batch of independent edits."""
    return jax.tree.map(lambda leaf: leaf[index], self)

  def combined(self) -> Self:
    """A batch of edits as one edit that makes all of them: their sum."""
    return jax.tree.map(
      lambda leaf: leaf.sum(0) if leaf.ndim == 3 else leaf, self
    )
