"""Side networks: slots added to a block's feed-forward part.

The edit of CaliNet (arXiv 2210.03329): beside the MLP of one block stand S new
slots, keys and values, that read what the MLP reads and add to what it gives,

  y' = MLP(x) + act(x K) V,

with the block's own activation. Values of zero change nothing.

Axes: B independent edits, T tokens, S slots, D width.
"""

import dataclasses
from typing import NoReturn, Self

import jax
import jax.numpy as jnp

from instructedit_jax.editing.algebra import Additive
from instructedit_jax.errors import UserError
from instructedit_jax.models.decoder import Tap
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.models.layers import ACTIVATIONS, summed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SideEdit(Additive):
  """Slots beside the MLP of one block, or B sets of them.

  Attributes:
    block: its number.
    activation: of the slots, by its name in the model's config.
    keys: [D, S] or, for B independent edits at once, [B, D, S].
    values: [S, D] or [B, S, D].
  """

  block: int = dataclasses.field(metadata={"static": True})
  activation: str = dataclasses.field(metadata={"static": True})
  keys: jax.Array
  values: jax.Array

  def tap(self) -> Tap:
    """The out-projection's output with that of the slots added."""
    # The MLP's input passes by at its first matrices, its output at the last.
    read: list[jax.Array] = []
    active = ACTIVATIONS[self.activation]

    def act(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
      if name == f"{self.block}.up":
        read[:] = [x]
      if name != f"{self.block}.down":
        return y
      x = read.pop()
      keys, values = self.keys, self.values
      if keys.ndim == 2:
        inner = active(summed("...n,ns->...s", x, keys))
        return y + summed("...s,sm->...m", inner, values)
      inner = active(summed("btn,bns->bts", x, keys))
      return y + summed("bts,bsm->btm", inner, values)

    return act

  @property
  def matrices(self) -> tuple[str, ...]:
    """Those whose input is read, and whose output is added to."""
    return f"{self.block}.up", f"{self.block}.down"

  @property
  def batched(self) -> bool:
    """Whether this holds independent edits along a leading axis."""
    return self.keys.ndim == 3

  def scale(self, factor: float | jax.Array) -> Self:
    """What is added, times `factor`."""
    return dataclasses.replace(self, values=self.values * factor)

  def __add__(self, other: Self) -> Self:
    """Both at once: their slots side by side."""
    mine, theirs = (
      (edit.block, edit.activation, edit.batched) for edit in (self, other)
    )
    if mine != theirs:
      raise ValueError("side networks of different blocks cannot be added")
    return dataclasses.replace(
      self,
      keys=jnp.concatenate([self.keys, other.keys], -1),
      values=jnp.concatenate([self.values, other.values], -2),
    )

  def combined(self) -> Self:
    """A batch of edits as one edit that makes all of them: all their slots."""
    if not self.batched:
      return self
    return dataclasses.replace(
      self,
      keys=jnp.moveaxis(self.keys, 0, 1).reshape(self.keys.shape[1], -1),
      values=self.values.reshape(-1, self.values.shape[-1]),
    )

  def merge(self, model: LanguageModel) -> NoReturn:
    """Raises a UserError: the model's matrices have no room for slots."""
    raise UserError(
      f"{model.name}: CaliNet's slots cannot be merged into weights, for they"
      " are new ones beside an MLP; save the edit itself and generate with"
      " edit="
    )
