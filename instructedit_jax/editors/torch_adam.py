"""torch's Adam with its default decays, to reproduce runs made with it.

Not optax's: in float32 it rounds 1 - 0.999^t to 4 digits at first, where torch
has it in double precision.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Adam(NamedTuple):
  """Running means of gradients and of their squares, and updates made."""

  mean: Any
  square: Any
  updates: jax.Array


def start(params: Any) -> Adam:
  """The state before the first update of `params`, any pytree."""
  zeros = jax.tree.map(jnp.zeros_like, params)
  return Adam(zeros, zeros, jnp.zeros((), jnp.int32))


def update(
  params: Any, adam: Adam, gradients: Any, lr: float
) -> tuple[Any, Adam]:
  """New parameters and state."""
  count = adam.updates + 1

  def mean(decay: float, old: Any, new: Any) -> Any:
    return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)

  def correction(decay: float, like: jax.Array) -> jax.Array:
    return -jnp.expm1(count.astype(like.dtype) * math.log(decay))

  def change(value: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
    size = jnp.sqrt(v) / jnp.sqrt(correction(0.999, v)) + 1e-8
    return value - lr / correction(0.9, m) * (m / size)

  first = mean(0.9, adam.mean, gradients)
  second = mean(0.999, adam.square, jax.tree.map(jnp.square, gradients))
  new = jax.tree.map(change, params, first, second)
  return new, Adam(first, second, count)
