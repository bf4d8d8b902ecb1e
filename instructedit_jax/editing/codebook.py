"""Codebook edits: stored outputs, used where an input is near a stored key.

The edit of GRACE (arXiv 2211.11031): in front of one matrix stands a codebook
of keys, each with a value and a radius. A token whose input lies within the
radius of the nearest key gets that key's value instead of the matrix's output;
every other token is left exactly as it was.

The published code looks up one token of each input, the last one of the edited
prompt, by its index. Here every token is looked up. The two agree on the edited
prompt itself, and this one needs no index: it means the same in packed rows,
under teacher forcing and while generating.

Axes: B independent edits, T tokens, C codebook entries, n inputs, m outputs.
"""

import dataclasses
from typing import NoReturn

import jax
import jax.numpy as jnp

from instructedit_jax.editing.algebra import Indexed
from instructedit_jax.errors import UserError
from instructedit_jax.models.decoder import Tap
from instructedit_jax.models.language_model import LanguageModel

UNUSED = -1.0  # the radius of an entry that is never chosen


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CodebookEdit(Indexed):
  """One codebook in front of one matrix, or B of them.

  Attributes:
    name: of the matrix, e.g. "27.down".
    keys: [C, n] or [B, C, n].
    values: [C, m] or [B, C, m].
    radii: [C] or [B, C]; below zero where an entry is not in use.
  """

  name: str = dataclasses.field(metadata={"static": True})
  keys: jax.Array
  values: jax.Array
  radii: jax.Array

  def tap(self) -> Tap:
    """The nearest key's value where it is near enough, else y."""

    def act(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
      if name != self.name:
        return y
      keys, values, radii = self.keys, self.values, self.radii
      if keys.ndim == 2:
        keys, values, radii = keys[None], values[None], radii[None]
      # From differences: the expanded square would lose small distances.
      gap = x.astype(keys.dtype)[:, :, None] - keys[:, None]
      distance = jnp.square(gap).sum(-1)
      distance = jnp.where((radii < 0)[:, None], jnp.inf, distance)
      chosen = jax.nn.one_hot(distance.argmin(-1), keys.shape[1], dtype=bool)
      near = chosen & (distance <= jnp.square(radii)[:, None])
      value = (near[..., None] * values[:, None]).sum(-2)
      return jnp.where(near.any(-1)[..., None], value.astype(y.dtype), y)

    return act

  @property
  def matrices(self) -> tuple[str, ...]:
    """The one whose outputs are replaced."""
    return (self.name,)

  @property
  def batched(self) -> bool:
    """Whether this holds independent codebooks along a leading axis."""
    return self.keys.ndim == 3

  def merge(self, model: LanguageModel) -> NoReturn:
    """Raises a UserError: no weights do what a codebook does."""
    raise UserError(
      f"{model.name}: a GRACE codebook cannot be merged into weights, for it"
      " acts on the inputs near its keys only; save the edit itself and"
      " generate with edit="
    )

  def scale(self, factor: float | jax.Array) -> NoReturn:
    """Raises a UserError: an output that is replaced has no multiple."""
    raise UserError(
      f"a GRACE codebook cannot be scaled by {factor}: it replaces outputs and"
      " adds nothing to them; to undo it, leave the edit out"
    )

  def __neg__(self) -> NoReturn:
    self.scale(-1.0)

  def __add__(self, other: object) -> NoReturn:
    raise UserError(
      "GRACE codebooks cannot be added, for their radii may overlap; give all"
      " requests to propose() at once"
    )

  __sub__ = __add__
