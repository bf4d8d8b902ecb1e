"""Packed rows of prefix states: what the suffix reads.

Axes: B rows, T tokens, P scored positions, D width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from instructedit_jax.editing.prefix import State
from instructedit_jax.editing.sequences import Packed
from instructedit_jax.models import decoder

# numpy on the host, jax.Array inside a program.
Array = Any


class Rows(NamedTuple):
  """Prefix states of packed rows and where their scored positions are.

  Attributes:
    hidden: float32 [B, T, D].
    positions, ends: int32 [B, T]; see `decoder.Branches`.
    at: int32 [B, P].
    labels: int32 [B, P].
    mask: bool [B, P].
  """

  hidden: Array
  positions: Array
  ends: Array
  at: Array
  labels: Array
  mask: Array

  @property
  def sequence(self) -> decoder.Branches:
    """Where the tokens stand, as the decoder takes it."""
    return decoder.Branches(self.positions, self.ends)

  def part(self, start: int, stop: int) -> Self:
    """The rows from `start` up to `stop`."""
    return type(self)(*(array[start:stop] for array in self))

  def only(self, chosen: Array) -> Self:
    """With nothing scored in the other rows; bool [B], or [1] for all."""
    return self._replace(mask=self.mask & chosen[:, None])


def rows_of(
  packed: Packed, states: Sequence[Sequence[State]], width: int
) -> Rows:
  """Puts the cached states of every row's sequences in their places."""
  hidden = np.zeros((*packed.tokens.shape, width), np.float32)
  for b, row in enumerate(states):
    for place, state in zip(packed.places[b], row, strict=True):
      hidden[b, place] = state.hidden
  return Rows(
    hidden,
    packed.positions,
    packed.ends,
    packed.at,
    packed.labels,
    packed.owner >= 0,
  )
