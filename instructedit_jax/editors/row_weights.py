"""An instruction weighs the rows of an edit: `instructedit_rows`.

Each row of a matrix, one token of the answer, has a feature; its product with
what the instruction asks for says how much of the row enters the edit, from
nothing to twice as much.

Axes: B requests, R rows, C code, D width of both sides of a matrix together.
"""

import jax
import jax.numpy as jnp

from instructedit_jax.editing.factors import Factors
from instructedit_jax.editors import hypernetwork
from instructedit_jax.editors.conditioner import ConditionerConfig, Params


def init(
  key: jax.Array,
  shapes: hypernetwork.Shapes,
  network: hypernetwork.HypernetworkConfig,
  config: ConditionerConfig,
) -> Params:
  """See `conditioner.Form`."""
  del network
  features = {}
  for i, (name, (n, m)) in enumerate(shapes.items()):
    drawn = jax.random.normal(
      jax.random.fold_in(key, i + 1), (n + m, config.code)
    )
    features[name] = drawn / (n + m) ** 0.5
  return {
    "features": features,
    "asked": dict.fromkeys(shapes, jnp.zeros((config.code, config.code))),
  }


def apply(
  params: Params,
  network: hypernetwork.Params,
  shapes: hypernetwork.Shapes,
  config: hypernetwork.HypernetworkConfig,
  factors: Factors,
  code: jax.Array,
  given: jax.Array,
) -> Factors:
  """See `conditioner.Form`."""
  del given  # whose code is zero anyhow
  pseudo = hypernetwork.transform(network, shapes, config, factors)
  delta = {
    name: pseudo.delta[name]
    * _weights(params, name, code, factors.x[name], factors.delta[name])
    for name in shapes
  }
  return pseudo._replace(delta=delta)


def _weights(
  params: Params,
  name: str,
  code_BC: jax.Array,
  x: jax.Array,
  delta: jax.Array,
) -> jax.Array:
  """Of each row, [B, R, 1], between 0 and 2; 1 where nothing is said."""
  rows_BRD = jnp.concatenate([x, delta], -1)
  feature_BRC = jnp.tanh(rows_BRD @ params["features"][name])
  asked_BC = code_BC @ params["asked"][name]
  return 2 * jax.nn.sigmoid(feature_BRC @ asked_BC[..., None])
