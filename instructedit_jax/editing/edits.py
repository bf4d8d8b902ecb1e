"""Edits: what an editor returns, and their algebra.

An edit is a pytree that knows how to act on the output of an editable matrix
(its `tap`) and how to be merged into weights. The model is never mutated.

Axes: B independent edits (one a row of the batch), R rank, n inputs, m outputs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, Self, runtime_checkable

import jax
import jax.numpy as jnp

from instructedit_jax.editing.algebra import Mergeable
from instructedit_jax.models.decoder import Tap
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.models.layers import summed


@runtime_checkable
class Edit(Protocol):
  """Anything that can change what a decoder computes."""

  @property
  def matrices(self) -> tuple[str, ...]:
    """Names of the editable matrices at which it acts, e.g. "27.down"."""

  def tap(self) -> Tap:
    """The hook a decoder calls on every editable matrix's output."""

  def merge(self, model: LanguageModel) -> LanguageModel:
    """A new model with this edit in its weights; a UserError if none has it."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRankEdit(Mergeable):
  """W' = W + sum over rows r of u_r v_r^T, for each named matrix.

  Attributes:
    u: name -> [R, n] or, for B independent edits at once, [B, R, n].
    v: name -> [R, m] or [B, R, m]; every scale is already in it.
  """

  u: dict[str, jax.Array]
  v: dict[str, jax.Array]

  def tap(self) -> Tap:
    """y + (x u^T) v; the dense update is never built."""

    def act(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
      if name not in self.u:
        return y
      u, v = self.u[name], self.v[name]
      if u.ndim == 2:
        inner = summed("...n,rn->...r", x, u)
        return y + summed("...r,rm->...m", inner, v)
      inner = summed("btn,brn->btr", x, u)
      return y + summed("btr,brm->btm", inner, v)

    return act

  @property
  def matrices(self) -> tuple[str, ...]:
    """Names of those it changes."""
    return tuple(self.u)

  def dense(self) -> dict[str, jax.Array]:
    """name -> the update itself, [n, m] or [B, n, m]."""
    return {
      name: jnp.einsum("...rn,...rm->...nm", self.u[name], self.v[name])
      for name in self.u
    }

  def scale(self, factor: float | jax.Array) -> Self:
    """The update times `factor`."""
    v = {name: value * factor for name, value in self.v.items()}
    return dataclasses.replace(self, v=v)

  def __add__(self, other: Self) -> Self:
    """Both updates at once: their rows side by side."""
    if self.u.keys() != other.u.keys():
      raise ValueError("edits of different matrices cannot be added")

    def stack(
      a: Mapping[str, jax.Array], b: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
      return {name: jnp.concatenate([a[name], b[name]], -2) for name in a}

    return dataclasses.replace(
      self, u=stack(self.u, other.u), v=stack(self.v, other.v)
    )

  def combined(self) -> Self:
    """A batch of edits as one edit that makes all of them."""
    return jax.tree.map(
      lambda leaf: leaf.reshape(-1, leaf.shape[-1]) if leaf.ndim == 3 else leaf,
      self,
    )
