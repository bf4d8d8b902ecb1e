"""Dense edits: a whole update of a matrix, as fine-tuning makes it.

Adam divides a gradient by its own size, element by element, so the update it
makes has no small rank even where every gradient has.

Axes: B independent edits, T tokens, n inputs, m outputs.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp

from instructedit_jax.editing.algebra import Mergeable
from instructedit_jax.models.decoder import Tap


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseEdit(Mergeable):
  """W' = W + update, for each named matrix.

  Attributes:
    update: name -> [n, m] or, for B independent edits at once, [B, n, m].
  """

  update: dict[str, jax.Array]

  def tap(self) -> Tap:
    """y + x update, multiplied in the update's own type.

    An update is far larger than what it is applied to: a copy of it in another
    type would cost more than the product.
    """

    def act(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
      if name not in self.update:
        return y
      update = self.update[name]
      x = x.astype(jnp.promote_types(x.dtype, update.dtype))
      rule = "...n,nm->...m" if update.ndim == 2 else "btn,bnm->btm"
      change = jnp.einsum(rule, x, update.astype(x.dtype))
      return (y + change).astype(y.dtype)

    return act

  @property
  def matrices(self) -> tuple[str, ...]:
    """Names of those it changes."""
    return tuple(self.update)

  def dense(self) -> dict[str, jax.Array]:
    """name -> the update itself, as a low-rank edit gives it."""
    return dict(self.update)

  def scale(self, factor: float | jax.Array) -> Self:
    """The update times `factor`."""
    return jax.tree.map(lambda leaf: leaf * factor, self)

  def __add__(self, other: Self) -> Self:
    """Both updates at once."""
    if self.update.keys() != other.update.keys():
      raise ValueError("edits of different matrices cannot be added")
    return jax.tree.map(jnp.add, self, other)

  def combined(self) -> Self:
    """A batch of edits as one edit that makes all of them: their sum."""
    return jax.tree.map(
      lambda leaf: leaf.sum(0) if leaf.ndim == 3 else leaf, self
    )
