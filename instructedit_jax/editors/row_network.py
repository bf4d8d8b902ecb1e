"""The hypernetwork's layers, at every real row of its input.

Matrices that share a network send their rows through it together; a row's mode
says whose it is. Rows are padded to one number a request, and a half of them is
padding: where there are several requests, only real rows are sent through.

Axes: B requests, R rows of one, all modes' in turn, G pools of requests, N rows
of a pool, D width of the network.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from instructedit_jax.editing import places

# {"v": [D, K], "u": [K, D], "bias": [D]} and, where matrices share the network,
# {"scale": [modes, D], "shift": [modes, D]}.
Layer = dict[str, jax.Array]
# Of every layer: what is added to a request's scale and shift, [..., D].
Changes = Sequence[tuple[jax.Array, jax.Array]]
# Of a layer: scale and shift at every row, to broadcast against rows.
Tables = Callable[[int], tuple[jax.Array, jax.Array]]


def clamp(p: jax.Array) -> jax.Array:
  """Negative entries to 0, with derivative 1 at 0.

  With U = 0 every p is exactly 0 at the start, so a rectifier whose derivative
  there is 0 would never learn. NaN passes, to be seen.
  """
  return jnp.where(p < 0, 0, p)


# Each is 0 at 0, so that the network starts as the identity, and learns there.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "relu": clamp,
  "gelu": jax.nn.gelu,
  "tanh": jnp.tanh,
  "none": lambda p: p,
}


class Form(NamedTuple):
  """What the layers do beyond their parameters.

  Attributes:
    residual: whether a layer adds to its input.
    activation: one of ACTIVATIONS.
    last: whether the last layer's output goes through it, too.
  """

  residual: bool
  activation: str
  last: bool


def run(
  layers: Sequence[Layer],
  rows: Sequence[jax.Array],
  masks: Sequence[jax.Array],
  changes: Changes | None,
  form: Form,
) -> list[jax.Array]:
  """Sends the rows of all modes through one network at once.

  Args:
    layers: of the network.
    rows: of each mode, [..., R, D]; the modes' R may differ.
    masks: bool [..., R], the real ones; others come out as anything.
    changes: of the requests, if any.
    form: of every layer.
  """
  counts = [row.shape[-2] for row in rows]
  h, mask = jnp.concatenate(rows, -2), jnp.concatenate(masks, -1)
  pool = places.pool_size(len(h)) if h.ndim == 3 else 1
  if pool > 1:
    modes = np.repeat(np.arange(len(counts)), counts)
    h = _real(layers, h, mask, modes, changes, pool, form)
  else:
    h = _through(layers, h, _spread(layers, counts, changes), form)
  ends = [sum(counts[: i + 1]) for i in range(len(counts) - 1)]
  return jnp.split(h, ends, -2)


def _through(
  layers: Sequence[Layer], h: jax.Array, tables: Tables, form: Form
) -> jax.Array:
  for index, layer in enumerate(layers):
    p = (h @ layer["v"]) @ layer["u"]
    p = p + _against(p, layer["bias"])
    scale, shift = tables(index)
    p = p * _against(p, scale) + _against(p, shift)
    if form.last or index < len(layers) - 1:
      p = ACTIVATIONS[form.activation](p)
    h = h + p if form.residual else p
  return h


def _spread(
  layers: Sequence[Layer], counts: Sequence[int], changes: Changes | None
) -> Tables:
  """For all rows [..., R, D]."""

  def spread(table: jax.Array) -> jax.Array:
    # Not a gather: the gradient of a broadcast is a plain sum.
    parts = [
      jnp.broadcast_to(table[mode][None, :], (count, table.shape[-1]))
      for mode, count in enumerate(counts)
    ]
    return jnp.concatenate(parts, 0)

  def tables(index: int) -> tuple[jax.Array, jax.Array]:
    found = tuple(map(spread, _own_tables(layers[index])))
    if changes is None:
      return found[0], found[1]
    by = [change[..., None, :] for change in changes[index]]
    return _against(by[0], found[0]) + by[0], _against(by[1], found[1]) + by[1]

  return tables


def _real(
  layers: Sequence[Layer],
  h: jax.Array,
  mask: jax.Array,
  modes: np.ndarray,
  changes: Changes | None,
  pool: int,
  form: Form,
) -> jax.Array:
  """The real rows of `pool` requests side by side, the others passed over."""
  requests, count = mask.shape
  mode_RM = jnp.asarray(np.eye(modes.max() + 1, dtype=h.dtype)[modes])
  own_BP = jnp.asarray(np.eye(pool, dtype=h.dtype)[np.arange(requests) % pool])

  def through(h: jax.Array, mode: jax.Array, own: jax.Array) -> jax.Array:
    def tables(index: int) -> tuple[jax.Array, jax.Array]:
      scale, shift = (
        _chosen("gnk,kd->gnd", mode, table)
        for table in _own_tables(layers[index])
      )
      if changes is None:
        return scale, shift
      by = (
        _chosen("gnk,gkd->gnd", own, change.reshape(len(h), pool, -1))
        for change in changes[index]
      )
      return scale + next(by), shift + next(by)

    return _through(layers, h, tables, form)

  return places.at_first(
    through,
    mask,
    h,
    jnp.broadcast_to(mode_RM[None], (requests, *mode_RM.shape)),
    jnp.broadcast_to(own_BP[:, None], (requests, count, pool)),
    pool=pool,
  )


def _own_tables(layer: Layer) -> tuple[jax.Array, jax.Array]:
  """scale and shift of every mode; those that change nothing without modes."""
  if "scale" in layer:
    return layer["scale"], layer["shift"]
  one = jnp.ones((1, 1), layer["bias"].dtype)
  return one, jnp.zeros_like(one)


def _chosen(rule: str, choice: jax.Array, table: jax.Array) -> jax.Array:
  """Rows of a table by one-hot choice: no scatter in the gradient."""
  return jnp.einsum(rule, choice, table, precision="highest")


def _against(p: jax.Array, value: jax.Array) -> jax.Array:
  """Leading axes of length 1, as many as p has more."""
  return value.reshape((1,) * (p.ndim - value.ndim) + value.shape)
