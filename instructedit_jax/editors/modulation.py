"""An instruction changes the hypernetwork's scales and shifts: `instructedit`.

Feature-wise modulation (arXiv 1709.07871) of every layer.

Axes: B requests, C code, M matrices.
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
  del key

  def zeros(outputs: int) -> jax.Array:
    return jnp.zeros((config.code, outputs))

  return {
    "layers": {
      name: {
        side: [[zeros(size), zeros(size)] for _ in range(network.depth)]
        for side, size in sides.items()
      }
      for name, sides in hypernetwork.widths(shapes, network).items()
    },
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
  changes = jax.tree.map(lambda table: code @ table, params["layers"])
  return hypernetwork.transform(
    network, shapes, config, factors, modulation=changes
  )
