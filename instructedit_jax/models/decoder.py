"""One Flax decoder for the GPT-2 and Llama families.

The blocks are split in two. The *prefix*, everything before the first editable
matrix, is frozen for good: its blocks are stacked and scanned, and its output
for a token sequence can be computed once and kept. The *suffix* starts with the
MLP of the first editable block and ends with the final norm; it is unrolled,
and every MLP matrix in it passes through a *tap*, the one hook by which an
editor reads factors or applies an edit.

Several short sequences may share a row, and attention never crosses from one to
another: side by side, `Sequence` numbers them; where they begin alike they lie
over each other, `Branches`.

Axes: B rows, T tokens, P scored positions, D width, F ffn, H heads, K head_dim,
V vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from instructedit_jax.errors import UserError
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.models.layers import (
  Block,
  Linear,
  Norm,
  Tap,
  product,
  take_tokens,
)

__all__ = [
  "Branches",
  "Cache",
  "Decoder",
  "Sequence",
  "Tap",
  "causal_mask",
  "slot_mask",
  "take_tokens",
]


class Sequence(NamedTuple):
  """Where each token of a batch of rows stands.

  Attributes:
    positions: int32 [B, T], position of a token in its own sequence.
    segments: int32 [B, T], which sequence of the row it belongs to; 0 = pad.
  """

  positions: jax.Array
  segments: jax.Array


class Branches(NamedTuple):
  """Rows of sequences laid over each other where they begin alike.

  A row holds a tree of tokens, parents first and every token's descendants
  right behind it, so one number a token says who may see it.

  Attributes:
    positions: int32 [B, T], position of a token in its sequences.
    ends: int32 [B, T], row index behind a token's last descendant; 0 = pad.
  """

  positions: jax.Array
  ends: jax.Array


class Cache(NamedTuple):
  """Keys and values of the tokens so far; slot = position.

  Attributes:
    keys, values: one [B, S, kv_heads, head_dim] array a block; the scanned
      blocks' arrays are stacked: [blocks, B, S, kv_heads, head_dim].
  """

  keys: Any
  values: Any


class Decoder(nnx.Module):
  """A causal language model; see the module docstring for its two parts."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    self.config = config
    init = nnx.initializers.normal(0.02)
    shape = (config.vocab, config.width)
    self.embedding = nnx.Param(init(rngs.params(), shape))
    learned = config.positions == "learned"
    places = init(rngs.params(), (config.context, config.width))
    self.positions = nnx.Param(places) if learned else None
    self.prefix_blocks = _stack(config, rngs) if config.first_editable else None
    self.suffix_blocks = nnx.List(
      [Block(config, rngs) for _ in range(config.suffix)]
    )
    self.final_norm = Norm(config.width, config)
    head = (config.width, config.vocab, False, rngs)
    self.head = None if config.tied else Linear(*head)

  def __call__(
    self, tokens: jax.Array, sequence: Sequence, tap: Tap | None = None
  ) -> jax.Array:
    """Logits at every token, [B, T, V]."""
    h = self.prefix(tokens, sequence)
    return self.logits(self.suffix(h, sequence, tap))

  def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """Token (and learned position) embeddings, [B, T, D].

    Raises:
      UserError: the parameters are those of a model without its prefix.
    """
    if not all(leaf.size for leaf in jax.tree.leaves(nnx.state(self))):
      raise UserError(
        "this model was loaded without its frozen prefix: it can neither read"
        " new text nor generate. Load it with load_model(..., prefix=True)"
      )
    h = self.embedding[...][tokens]
    if self.positions is not None:
      h = h + self.positions[...][positions]
    return h

  def prefix(
    self, tokens: jax.Array, sequence: Sequence | Branches
  ) -> jax.Array:
    """The residual stream in front of the first editable MLP, [B, T, D].

    Args:
      tokens: int32 [B, T].
      sequence: where the tokens stand.
    """
    positions = sequence.positions
    mask = causal_mask(sequence, self.config.window)
    h = self.embed(tokens, positions)
    if self.prefix_blocks is not None:
      graph, stacked = nnx.split(self.prefix_blocks)

      def step(h: jax.Array, params: nnx.State) -> tuple[jax.Array, None]:
        block = nnx.merge(graph, params)
        return block.feed(block.attend(h, positions, mask)), None

      h, _ = jax.lax.scan(step, h, stacked)
    return self.suffix_blocks[0].attend(h, positions, mask)

  def suffix(
    self,
    h: jax.Array,
    sequence: Sequence | Branches,
    tap: Tap | None = None,
    at: jax.Array | None = None,
  ) -> jax.Array:
    """From the prefix's output to the final norm.

    Args:
      h: [B, T, D], what `prefix` returned.
      sequence: where the tokens stand.
      tap: sees every editable matrix; the last block's only at `at`.
      at: int32 [B, P], the token indices wanted; None for all.

    Returns:
      [B, P, D] (P = T where `at` is None), input of the head.
    """
    return self.finish(self.approach(h, sequence, tap, at), tap)

  def approach(
    self,
    h: jax.Array,
    sequence: Sequence | Branches,
    tap: Tap | None = None,
    at: jax.Array | None = None,
  ) -> jax.Array:
    """`suffix` up to the last block's MLP: the residual stream there.

    Args:
      h, sequence, tap, at: as for `suffix`.

    Returns:
      [B, P, D] (P = T where `at` is None), input of `finish`.
    """
    mask = causal_mask(sequence, self.config.window)
    first = self.config.first_editable
    *others, last = self.suffix_blocks
    for index, block in enumerate(others):
      if index:
        h = block.attend(h, sequence.positions, mask)
      h = block.feed(h, tap, str(first + index))
    if not others:
      return h if at is None else take_tokens(h, at)
    if at is None:
      return last.attend(h, sequence.positions, mask)
    return last.attend_at(h, sequence.positions, mask, at)

  def finish(self, h: jax.Array, tap: Tap | None = None) -> jax.Array:
    """The last block's MLP and the final norm: `suffix` from `approach` on."""
    name = str(self.config.blocks - 1)
    return self.final_norm(self.suffix_blocks[-1].feed(h, tap, name))

  def logits(self, x: jax.Array) -> jax.Array:
    """The head: [..., D] to [..., V], float32 or better."""
    if self.head is not None:
      y = self.head(x)
    else:
      y = product(x, self.embedding[...], transposed=True)
    return y.astype(jnp.promote_types(y.dtype, jnp.float32))

  def empty_cache(self, rows: int, slots: int, dtype: Any) -> Cache:
    """Zeroed keys and values for `rows` sequences of up to `slots` tokens."""
    config = self.config
    shape = (rows, slots, config.kv_heads, config.head_dim)

    def zeros() -> tuple[jax.Array, list[jax.Array]]:
      stacked = jnp.zeros((config.first_editable, *shape), dtype)
      return stacked, [jnp.zeros(shape, dtype) for _ in range(config.suffix)]

    return Cache(zeros(), zeros())

  def step(
    self,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache,
    tap: Tap | None = None,
  ) -> tuple[jax.Array, Cache]:
    """Feeds tokens [B, T] at `positions` and extends the cache.

    A padded token must have a position at or after its row's end: its slot is
    overwritten before any real token can see it.

    Returns:
      [B, T, D], input of the head, and the new cache.
    """
    slots = cache.keys[1][0].shape[1]
    mask = slot_mask(positions, slots, self.config.window)
    h = self.embed(tokens, positions)
    stacked_keys, stacked_values = cache.keys[0], cache.values[0]
    if self.prefix_blocks is not None:
      graph, stacked = nnx.split(self.prefix_blocks)

      def scanned(h: jax.Array, xs: Any) -> tuple[jax.Array, Any]:
        block = nnx.merge(graph, xs[0])
        h, *held = block.attend_cached(h, positions, mask, xs[1], xs[2])
        return block.feed(h), tuple(held)

      h, (stacked_keys, stacked_values) = jax.lax.scan(
        scanned, h, (stacked, stacked_keys, stacked_values)
      )
    keys, values = [], []
    for i, block in enumerate(self.suffix_blocks):
      h, new_keys, new_values = block.attend_cached(
        h, positions, mask, cache.keys[1][i], cache.values[1][i]
      )
      h = block.feed(h, tap, str(self.config.first_editable + i))
      keys.append(new_keys)
      values.append(new_values)
    held = Cache((stacked_keys, keys), (stacked_values, values))
    return self.final_norm(h), held


def _stack(config: DecoderConfig, rngs: nnx.Rngs) -> Block:
  """The prefix's blocks as one, every parameter with a leading block axis."""

  @nnx.vmap(in_axes=0, out_axes=0)
  def create(key: jax.Array) -> Block:
    return Block(config, nnx.Rngs(params=key))

  return create(jax.random.split(rngs.params(), config.first_editable))


def causal_mask(
  sequence: Sequence | Branches, window: int | None = None
) -> jax.Array:
  """bool [B, T, T]: may token i (axis 1) see token j (axis 2)?

  A real token sees at least itself; padding sees nothing.
  """
  positions = sequence.positions
  order = jnp.arange(positions.shape[1])
  seen = (order[:, None] >= order[None, :])[None]
  if isinstance(sequence, Branches):
    # Behind padding there are no real tokens, and before it all have ended.
    seen = seen & (order[None, :, None] < sequence.ends[:, None, :])
  else:
    segments = sequence.segments
    seen = seen & (segments[:, :, None] == segments[:, None, :])
    seen = seen & (segments != 0)[:, :, None]
  if window is not None:
    distance = positions[:, :, None] - positions[:, None, :]
    seen = seen & (distance < window)
  return seen


def slot_mask(
  positions: jax.Array, slots: int, window: int | None = None
) -> jax.Array:
  """bool [B, T, S]: may a token at `positions` [B, T] see cache slot s?"""
  slot = jnp.arange(slots)[None, None, :]
  seen = slot <= positions[:, :, None]
  if window is not None:
    seen = seen & (positions[:, :, None] - slot < window)
  return seen
