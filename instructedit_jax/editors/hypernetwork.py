"""The network that turns the factors of a gradient into those of an edit.

MEND (arXiv 2110.11309, section 3): the input x and the output gradient delta of
an editable matrix are whitened with running statistics, concatenated and sent
through residual low-rank layers

  h <- h + clamp(scale * (U V h + b) + shift),  clamp(p) = max(p, 0)

Matrices of one shape share U, V and b; a row of the tables `scale` and `shift`,
their *mode*, tells them apart. The result stays in whitened units and is again
a pair of factors: the edit is the sum over rows of x~ delta~^T.

Everything here is a pure function over dicts of arrays. `shapes`, the editable
matrices in their listed order, is static: it numbers the modes, and a dict that
passes through a JAX transformation would come back sorted by name.

Axes: ... requests, R rows of one request, n inputs, m outputs of a matrix,
D width of a network (n + m where both sides are concatenated), K its rank.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from instructedit_jax.editing import statistics as stats
from instructedit_jax.editing.factors import Factors
from instructedit_jax.editors import row_network
from instructedit_jax.editors.row_network import Layer
from instructedit_jax.errors import UserError, require_least

# name -> (n inputs, m outputs), in listed order.
Shapes = Mapping[str, tuple[int, int]]
# network -> side -> layers, each {"v": [D, K], "u": [K, D], "bias": [D]} and,
# where matrices share the network, {"scale": [modes, D], "shift": [modes, D]}.
Params = dict[str, dict[str, list[Layer]]]
# key -> {"x": moments of n coordinates, "delta": moments of m coordinates}.
Statistics = dict[str, dict[str, stats.Moments]]
# network -> side -> layers of (change of scale, change of shift), [..., D].
Modulation = Mapping[str, Mapping[str, Any]]

_CHOICES = {
  "sides": ("combined", "separate", "smaller", "x", "delta"),
  "activation": tuple(row_network.ACTIVATIONS),
  "init": ("identity", "xavier"),
  "v_scale": ("unit", "width"),
  "statistics_per": ("shape", "matrix"),
}


@dataclasses.dataclass(frozen=True)
class HypernetworkConfig:
  """The form of the network; the defaults are the published ones.

  Attributes:
    rank: K; at most the width of the network is used.
    depth: number of layers.
    shared: one network for all matrices of a shape, told apart by their modes;
      else one for each matrix, without modes.
    sides: "combined" sends x and delta through one network together,
      "separate" each through its own, "smaller" transforms only the narrower
      of the two, "x" and "delta" only that one. What is not transformed is
      passed on whitened.
    normalize: whiten the factors first.
    activation: of a layer's correction: "relu" as published, "gelu", "tanh", or
      "none" for a linear network.
    last_clamp: activate the last layer's correction too, as published; clamped
      by "relu" it can only add to its input, never subtract.
    init: "identity" starts at the identity (U = 0, V normal, residual layers);
      "xavier" draws both uniformly and has no residual.
    v_scale: deviation of V's entries under "identity": "unit" is 1 as
      published, which makes |V h| and so the useful learning rate grow with D;
      "width" is 1 / sqrt(D).
    statistics_per: whiten with one set of statistics for all matrices of a
      "shape", as published, or for each "matrix".
  """

  rank: int = 1920
  depth: int = 2
  shared: bool = True
  sides: str = "combined"
  normalize: bool = True
  activation: str = "relu"
  last_clamp: bool = True
  init: str = "identity"
  v_scale: str = "unit"
  statistics_per: str = "shape"

  def __post_init__(self):
    for field, choices in _CHOICES.items():
      value = getattr(self, field)
      if value not in choices:
        known = ", ".join(map(repr, choices))
        raise UserError(f"hypernetwork.{field}: {value!r} is none of {known}")
    require_least(self, "hypernetwork.", rank=1, depth=1)


def init(
  key: jax.Array,
  shapes: Shapes,
  config: HypernetworkConfig,
  dtype: Any = jnp.float32,
) -> tuple[Params, Statistics]:
  """Fresh parameters and empty statistics.

  Args:
    key: a PRNG key.
    shapes: the editable matrices, in listed order.
    config: the form of the network.
    dtype: of parameters and statistics.
  """
  params: Params = {}
  for network, sides in widths(shapes, config).items():
    modes = len(members(shapes, config)[network]) if config.shared else 0
    params[network] = {}
    for side, width in sides.items():
      key, *keys = jax.random.split(key, config.depth + 1)
      params[network][side] = [
        _layer(k, width, modes, config, dtype) for k in keys
      ]
  moments = {
    _statistics_key(shapes, config, name): {
      "x": stats.empty(n, dtype),
      "delta": stats.empty(m, dtype),
    }
    for name, (n, m) in shapes.items()
  }
  return params, moments


def shape_key(shape: tuple[int, int]) -> str:
  """The name of the network all matrices of a shape share, e.g. "64x32"."""
  return f"{shape[0]}x{shape[1]}"


def members(
  shapes: Shapes, config: HypernetworkConfig
) -> dict[str, tuple[str, ...]]:
  """network -> the matrices that use it; their places are their modes."""
  groups: dict[str, tuple[str, ...]] = {}
  for name, shape in shapes.items():
    network = shape_key(shape) if config.shared else name
    groups[network] = (*groups.get(network, ()), name)
  return groups


def widths(
  shapes: Shapes, config: HypernetworkConfig
) -> dict[str, dict[str, int]]:
  """network -> side ("both", "x" or "delta") -> D."""
  found = {}
  for network, names in members(shapes, config).items():
    n, m = shapes[names[0]]
    found[network] = {
      "combined": {"both": n + m},
      "separate": {"x": n, "delta": m},
      # The published rule: on a tie it is x that is transformed.
      "smaller": {"delta": m} if n > m else {"x": n},
      "x": {"x": n},
      "delta": {"delta": m},
    }[config.sides]
  return found


def fold_factors(
  statistics: Statistics,
  shapes: Shapes,
  config: HypernetworkConfig,
  factors: Factors,
) -> Statistics:
  """Adds the rows of every matrix, before anything is whitened.

  Args:
    statistics: what was seen before.
    shapes: the editable matrices, in listed order.
    config: the form of the network.
    factors: rows [..., n] and [..., m] with masks [...].
  """
  for name in shapes:
    statistics = _fold_one(statistics, shapes, config, factors, name)
  return statistics


def fold_in_turn(
  statistics: Statistics,
  shapes: Shapes,
  config: HypernetworkConfig,
  factors: Factors,
) -> tuple[Statistics, Statistics]:
  """As `fold_factors`, keeping what each matrix's turn would have seen.

  The published editor adds a matrix's rows just before it whitens them, so the
  first matrices of a shape are whitened without the rows of the later ones.

  Returns:
    the statistics after the last matrix, and by matrix name those after it.
  """
  seen: Statistics = {}
  for name in shapes:
    statistics = _fold_one(statistics, shapes, config, factors, name)
    seen[name] = statistics[_statistics_key(shapes, config, name)]
  return statistics, seen


def by_matrix(
  statistics: Statistics, shapes: Shapes, config: HypernetworkConfig
) -> Statistics:
  """The statistics that each matrix is whitened with, by matrix name."""
  return {
    name: statistics[_statistics_key(shapes, config, name)] for name in shapes
  }


def whiten(
  seen: Statistics, config: HypernetworkConfig, factors: Factors
) -> Factors:
  """Factors with each coordinate centred and scaled (float32 or better).

  Args:
    seen: statistics by matrix name.
    config: does nothing where `normalize` is off.
    factors: rows and masks; masked rows come out as zeros.
  """

  def side(name: str, which: str, rows: jax.Array) -> jax.Array:
    rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
    if config.normalize:
      rows = stats.whiten(seen[name][which], rows)
    # Otherwise a bad number in a masked row would poison the gradient.
    return jnp.where(factors.mask[name][..., None], rows, 0)

  return Factors(
    x={name: side(name, "x", factors.x[name]) for name in seen},
    delta={name: side(name, "delta", factors.delta[name]) for name in seen},
    mask={name: factors.mask[name] for name in seen},
  )


def transform(
  params: Params,
  shapes: Shapes,
  config: HypernetworkConfig,
  factors: Factors,
  *,
  modulation: Modulation | None = None,
) -> Factors:
  """Pseudo-activations x~ and pseudo-deltas delta~ of every matrix.

  Args:
    params: from `init`, or trained.
    shapes: the editable matrices, in listed order.
    config: the form of the network.
    factors: from `whiten`: x [..., R, n], delta [..., R, m], mask [..., R]; the
      leading axes of matrices that share a network must agree, R may differ.
    modulation: changes added to `scale` and `shift` of every layer, one vector
      a request; networks and sides left out are not changed.

  Returns:
    Factors of the same shapes; masked rows are zero.
  """
  x, delta = dict(factors.x), dict(factors.delta)
  form = row_network.Form(
    config.init == "identity", config.activation, config.last_clamp
  )
  for network, names in members(shapes, config).items():
    changes = (modulation or {}).get(network, {})
    for side, layers in params[network].items():
      rows = [_join(side, x[name], delta[name]) for name in names]
      masks = [factors.mask[name] for name in names]
      rows = row_network.run(layers, rows, masks, changes.get(side), form)
      for name, out in zip(names, rows, strict=True):
        # After the network: bias and shift make a zero row non-zero.
        out = jnp.where(factors.mask[name][..., None], out, 0)
        if side == "both":
          n = shapes[name][0]
          x[name], delta[name] = out[..., :n], out[..., n:]
        elif side == "x":
          x[name] = out
        else:
          delta[name] = out
  return Factors(x, delta, dict(factors.mask))


def _join(side: str, x: jax.Array, delta: jax.Array) -> jax.Array:
  if side == "both":
    return jnp.concatenate([x, delta], -1)
  return x if side == "x" else delta


def _layer(
  key: jax.Array,
  width: int,
  modes: int,
  config: HypernetworkConfig,
  dtype: Any,
) -> dict[str, jax.Array]:
  rank = min(config.rank, width)
  v_key, u_key = jax.random.split(key)
  if config.init == "identity":
    v = jax.random.normal(v_key, (width, rank), dtype)
    v = v / width**0.5 if config.v_scale == "width" else v
    u = jnp.zeros((rank, width), dtype)
  else:
    # Xavier with gains 1 for V and sqrt(2), that of a rectifier, for U.
    bound = (6 / (width + rank)) ** 0.5
    v = jax.random.uniform(v_key, (width, rank), dtype, -bound, bound)
    u = jax.random.uniform(u_key, (rank, width), dtype, -bound, bound)
    u = u * 2**0.5
  layer = {"v": v, "u": u, "bias": jnp.zeros(width, dtype)}
  if modes:
    layer["scale"] = jnp.ones((modes, width), dtype)
    layer["shift"] = jnp.zeros((modes, width), dtype)
  return layer


def _statistics_key(
  shapes: Shapes, config: HypernetworkConfig, name: str
) -> str:
  return name if config.statistics_per == "matrix" else shape_key(shapes[name])


def _fold_one(
  statistics: Statistics,
  shapes: Shapes,
  config: HypernetworkConfig,
  factors: Factors,
  name: str,
) -> Statistics:
  key, mask = _statistics_key(shapes, config, name), factors.mask[name]
  old = statistics[key]
  new = {
    "x": stats.fold(old["x"], factors.x[name], mask),
    "delta": stats.fold(old["delta"], factors.delta[name], mask),
  }
  return {**statistics, key: new}
