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
  """Inverse of symmetric positive definite matrices [..., R, R].

  Gauss-Jordan without pivoting, all matrices at once, in blocks where there are
  many rows. LAPACK inside a jitted CPU program can wait for its own thread pool
  for ever (seen with jaxlib 0.10.2 on two cores), and for a few rows it is no
  faster.
  """
  if matrix.shape[-1] <= _BLOCK:
    return _eliminated(matrix)
  found = _in_halves(matrix)
  # What is small in the second half was a difference of large numbers: one step
  # of Newton's method makes up for it.
  found = 2 * found - found @ (matrix @ found)
  return (found + _turned(found)) / 2


def _in_halves(matrix: jax.Array) -> jax.Array:
  """With the inverse of the first half, and of what it leaves of the second."""
  if matrix.shape[-1] <= _BLOCK:
    return _eliminated(matrix)
  half = matrix.shape[-1] // 2
  first, across = matrix[..., :half, :half], matrix[..., :half, half:]
  first = _in_halves(first)
  weights = first @ across
  second = matrix[..., half:, half:] - _turned(across) @ weights
  second = _in_halves(second)
  corner = -weights @ second
  top = jnp.concatenate([first - corner @ _turned(weights), corner], -1)
  return jnp.concatenate(
    [top, jnp.concatenate([_turned(corner), second], -1)], -2
  )


def _turned(matrix: jax.Array) -> jax.Array:
  return jnp.swapaxes(matrix, -1, -2)


def _eliminated(matrix: jax.Array) -> jax.Array:
  def eliminate(k: jax.Array, a: jax.Array) -> jax.Array:
    chosen = jax.nn.one_hot(k, a.shape[-1], dtype=a.dtype)
    leading = (1,) * (a.ndim - 2)
    row_k = chosen.reshape((*leading, -1, 1))
    column_k = chosen.reshape((*leading, 1, -1))
    row = (a * row_k).sum(-2, keepdims=True)
    column = (a * column_k).sum(-1, keepdims=True)
    pivot = (row * column_k).sum(-1, keepdims=True)
    rest = (1 - row_k) * (1 - column_k)
    return (
      (a - column * row / pivot) * rest
      + row_k * (1 - column_k) * (row / pivot)
      - column_k * (1 - row_k) * (column / pivot)
      + row_k * column_k / pivot
    )

  return jax.lax.fori_loop(0, matrix.shape[-1], eliminate, matrix)


def _forward(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  inverse = spd_inverse(matrix)
  return inverse, inverse


def _backward(inverse: jax.Array, change: jax.Array) -> tuple[jax.Array]:
  # d(A^-1) = -A^-1 dA A^-1, and the inverse is symmetric.
  return (-inverse @ change @ inverse,)


spd_inverse.defvjp(_forward, _backward)
