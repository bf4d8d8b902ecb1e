"""Rows that no longer answer for each other.

The rows of one answer resemble one another, so in a plain sum of outer products
each token's key also fires for its neighbours, and a long answer drowns in
itself. Ridge least squares over the rows (as in MALMEN, arXiv 2311.04661) pulls
them apart.

Axes: R rows, n inputs of a matrix.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

# Rows that are eliminated one by one; more are taken in halves.
_BLOCK = 32


def decorrelate(
  keys: Mapping[str, jax.Array], log_strength: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """(I + s / n * X X^T)^-1 X for every matrix's rows X.

  Args:
    keys: name -> X, [..., R, n] pseudo-activations; masked rows are zero and
      stay so. Matrices with as many rows are worked on together.
    log_strength: name -> log s; towards minus infinity nothing changes.
  """
  alike: dict[tuple[int, ...], list[str]] = {}
  for name, rows in keys.items():
    alike.setdefault(rows.shape[:-1], []).append(name)
  found: dict[str, jax.Array] = {}
  for names in alike.values():
    grams = [
      jnp.einsum("...rn,...sn->...rs", keys[name], keys[name])
      * (jnp.exp(log_strength[name]) / keys[name].shape[-1])
      for name in names
    ]
    gram = jnp.stack(grams)
    eye = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    eye = eye.reshape((1,) * (gram.ndim - 2) + eye.shape)
    inverse = spd_inverse(gram + eye)
    for i, name in enumerate(names):
      found[name] = jnp.einsum("...rs,...sn->...rn", inverse[i], keys[name])
  return {name: found[name] for name in keys}


@jax.custom_vjp
def spd_inverse(matrix: jax.Array) -> jax.Array:
  """Inverse of symmetric matrices [..., R, R] that are at least the identity.

  By Cholesky factors, all matrices at once: about as exact as LAPACK also where
  rows are nearly alike, as those of one answer behind two prompts are. LAPACK
  inside a jitted CPU program can wait for its own thread pool for ever (seen
  with jaxlib 0.10.2 on two cores), and for a few rows it is no faster.
  """
  lower = _whitener(matrix)
  return _turned(lower) @ lower


def _whitener(matrix: jax.Array) -> jax.Array:
  """Lower triangular W with W A W^T = I; the second half rests on the first."""
  rows = matrix.shape[-1]
  if rows <= _BLOCK:
    return _eliminated(matrix)
  half = rows // 2
  first = _whitener(matrix[..., :half, :half])
  across = matrix[..., half:, :half] @ _turned(first)
  left = matrix[..., half:, half:] - across @ _turned(across)
  second = _whitener(left)
  corner = -second @ (across @ first)
  nothing = jnp.zeros((*matrix.shape[:-2], half, rows - half), matrix.dtype)
  return jnp.concatenate(
    [
      jnp.concatenate([first, nothing], -1),
      jnp.concatenate([corner, second], -1),
    ],
    -2,
  )


def _turned(matrix: jax.Array) -> jax.Array:
  return jnp.swapaxes(matrix, -1, -2)


def _eliminated(matrix: jax.Array) -> jax.Array:
  """The same, column by column."""
  count = matrix.shape[-1]
  eye = jnp.broadcast_to(jnp.eye(count, dtype=matrix.dtype), matrix.shape)
  number = jnp.arange(count).reshape(*(1,) * (matrix.ndim - 2), -1, 1)

  def eliminate(k: jax.Array, both: jax.Array) -> jax.Array:
    row = jax.lax.dynamic_index_in_dim(both, k, -2)
    column = jax.lax.dynamic_index_in_dim(both, k, -1)
    # No pivot of such a matrix is below one, but for rounding.
    pivot = jnp.maximum(jax.lax.dynamic_index_in_dim(row, k, -1), 1)
    below = both - column * row / pivot
    number_k = jnp.broadcast_to(number, both.shape)
    done = jnp.where(number_k == k, row / jnp.sqrt(pivot), both)
    return jnp.where(number_k > k, below, done)

  start = jnp.concatenate([matrix, eye], -1)
  return jax.lax.fori_loop(0, count, eliminate, start)[..., count:]


def _forward(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  inverse = spd_inverse(matrix)
  return inverse, inverse


def _backward(inverse: jax.Array, change: jax.Array) -> tuple[jax.Array]:
  # d(A^-1) = -A^-1 dA A^-1, and the inverse is symmetric.
  return (-inverse @ change @ inverse,)


spd_inverse.defvjp(_forward, _backward)
