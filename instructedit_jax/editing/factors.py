"""Factors: the inputs and output gradients of every editable matrix.

For a linear map y = x W the gradient of a loss with respect to W is the sum
over tokens of x delta^T, where delta is the gradient with respect to y
(MEND, arXiv 2110.11309, section 3). `jax.grad` with respect to a zero *probe*
added to y gives delta without ever building the weight gradient.

Axes: B rows, T tokens, R gathered rows, n inputs, m outputs.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from instructedit_jax.models.decoder import Tap, take_tokens


class Factors(NamedTuple):
  """What an editor sees of one edit request, for each named matrix.

  Attributes:
    x: name -> [B, R, n], inputs of the matrix.
    delta: name -> [B, R, m], loss gradients at its outputs.
    mask: name -> bool [B, R], which rows are real.
  """

  x: dict[str, jax.Array]
  delta: dict[str, jax.Array]
  mask: dict[str, jax.Array]


def probe(
  loss: Callable[[Tap], tuple[jax.Array, Any]],
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], jax.Array, Any]:
  """Runs `loss` once forward and once backward through probes.

  Args:
    loss: given a tap, returns a scalar and anything else. Summing independent
      requests' losses keeps their gradients apart.

  Returns:
    inputs and gradients by matrix name, the loss, and the rest it returned.
  """
  shapes: dict[str, jax.ShapeDtypeStruct] = {}

  def look(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
    del x
    # Half precision would flush whole rows of delta to zero.
    dtype = jnp.promote_types(y.dtype, jnp.float32)
    shapes[name] = jax.ShapeDtypeStruct(y.shape, dtype)
    return y

  jax.eval_shape(lambda: loss(look))

  def probed(probes: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
    inputs: dict[str, jax.Array] = {}

    def tap(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
      inputs[name] = x
      return (y + probes[name]).astype(y.dtype)

    value, rest = loss(tap)
    return value, (inputs, rest)

  zeros = {name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items()}
  (value, (inputs, rest)), deltas = jax.value_and_grad(probed, has_aux=True)(
    zeros
  )
  return inputs, deltas, value, rest


def answer_rows(
  inputs: dict[str, jax.Array],
  deltas: dict[str, jax.Array],
  at: jax.Array,
  mask: jax.Array,
  gathered: Collection[str] = (),
) -> Factors:
  """Keeps only the rows that predict the answer's tokens.

  Args:
    inputs, deltas: from `probe`, [B, T, ...].
    at: int32 [B, R], token indices that predict an answer token.
    mask: bool [B, R], False where `at` is padding.
    gathered: names whose arrays hold the rows `at` alone already, [B, R, ...].
  """

  def gather(name: str, value: jax.Array) -> jax.Array:
    # Not told by shape: a row may have as many tokens as answer rows.
    kept = value if name in gathered else take_tokens(value, at)
    return jnp.where(mask[:, :, None], kept, 0)

  return Factors(
    x={name: gather(name, value) for name, value in inputs.items()},
    delta={name: gather(name, value) for name, value in deltas.items()},
    mask=dict.fromkeys(inputs, mask),
  )


def all_rows(
  inputs: dict[str, jax.Array], deltas: dict[str, jax.Array]
) -> Factors:
  """Every row in which neither x nor delta is exactly zero, as MEND keeps."""
  return Factors(
    x=inputs,
    delta=deltas,
    mask={
      name: jnp.any(inputs[name] != 0, -1) & jnp.any(deltas[name] != 0, -1)
      for name in inputs
    },
  )
