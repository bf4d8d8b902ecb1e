"""What the outer gradient keeps of the suffix's blocks, and what it redoes.

Keeping every intermediate value is fastest. Redoing a block's arithmetic when
its turn comes in the backward pass leaves one block's values in memory at a
time.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from instructedit_jax.errors import UserError
from instructedit_jax.models.decoder import Decoder, Tap
from instructedit_jax.models.layers import Block

# What a block keeps: everything, results of its weights' products, nothing.
POLICIES: dict[str, Callable[..., Any] | None] = {
  "none": None,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


def require(policy: str) -> str:
  """Returns `policy`, or raises a UserError that lists the known ones."""
  if policy not in POLICIES:
    raise UserError(
      f"config.remat: {policy!r} is none of {', '.join(POLICIES)}"
    )
  return policy


def rematerialised(decoder: Decoder, policy: str) -> Decoder:
  """A decoder over the same parameters whose suffix follows `policy`.

  Its taps must be pure: their arguments do not outlive a block.
  """
  if policy == "none":
    return decoder
  graph, params = nnx.split(decoder)
  copy = nnx.merge(graph, params)
  copy.suffix_blocks = nnx.List(
    [_Block(block, policy) for block in copy.suffix_blocks]
  )
  return copy


class _Block(Block):
  """A block that redoes its halves in the backward pass."""

  def __init__(self, block: Block, policy: str):
    self.attention_norm, self.attention = block.attention_norm, block.attention
    self.mlp_norm, self.mlp = block.mlp_norm, block.mlp
    self.policy = policy

  def attend(self, *args: jax.Array) -> jax.Array:
    return self._redone(super().attend)(*args)

  def attend_at(self, *args: jax.Array) -> jax.Array:
    return self._redone(super().attend_at)(*args)

  def feed(
    self, h: jax.Array, tap: Tap | None = None, name: str = ""
  ) -> jax.Array:
    whole = super().feed
    return self._redone(lambda h: whole(h, tap, name))(h)

  def _redone(self, half: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return jax.checkpoint(half, policy=POLICIES[self.policy])
