"""The likeliest token, found quickly."""

import jax
import jax.numpy as jnp


def likeliest(logits: jax.Array) -> jax.Array:
  """The first of the largest entries of [..., V], as `argmax(-1)`: int [...].

  In two steps, the best block and the best in it: on CPUs XLA's own argmax over
  a vocabulary takes half as long as the matrix product that made the logits.
  """
  vocabulary = logits.shape[-1]
  size = _block(vocabulary)
  if size == 1:
    return logits.argmax(-1)
  blocks = logits.reshape(*logits.shape[:-1], vocabulary // size, size)
  best = blocks.max(-1).argmax(-1)
  index = best.reshape(*best.shape, 1, 1)
  inside = jnp.take_along_axis(blocks, index, -2)[..., 0, :]
  return best * size + inside.argmax(-1)


def _block(vocabulary: int) -> int:
  """The divisor nearest to 128 that makes blocks worth it; 1 if none does."""
  found = [size for size in range(16, 2048) if vocabulary % size == 0]
  found = [size for size in found if vocabulary // size >= 16]
  return min(found, key=lambda size: abs(size - 128), default=1)
