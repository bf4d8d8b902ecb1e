"""An instruction calls in experts: `instructedit_experts`.

Beside the hypernetwork there are smaller ones of the same form, and an
instruction says how much of what each of them changes is added. All matrices
have the same shares.

Axes: B requests, C code, E experts.
"""

import dataclasses

import jax
import jax.numpy as jnp

from instructedit_jax.editing.factors import Factors
from instructedit_jax.editors import hypernetwork
from instructedit_jax.editors.conditioner import ConditionerConfig, Params
from instructedit_jax.editors.hypernetwork import HypernetworkConfig

EXPERTS = 4


def init(
  key: jax.Array,
  shapes: hypernetwork.Shapes,
  network: HypernetworkConfig,
  config: ConditionerConfig,
) -> Params:
  """See `conditioner.Form`."""
  keys = [jax.random.fold_in(key, i + 1) for i in range(EXPERTS)]
  small = _small(network)
  return {
    "experts": [hypernetwork.init(k, shapes, small)[0] for k in keys],
    "shares": jnp.zeros((config.code, EXPERTS)),
  }


def apply(
  params: Params,
  network: hypernetwork.Params,
  shapes: hypernetwork.Shapes,
  config: HypernetworkConfig,
  factors: Factors,
  code: jax.Array,
  given: jax.Array,
) -> Factors:
  """See `conditioner.Form`."""
  small = _small(config)
  share_BE = jax.nn.softmax(code @ params["shares"])
  share_BE = jnp.where(given[:, None], share_BE, 0)
  pseudo = hypernetwork.transform(network, shapes, config, factors)
  x, delta = dict(pseudo.x), dict(pseudo.delta)
  for i, expert in enumerate(params["experts"]):
    said = hypernetwork.transform(expert, shapes, small, factors)
    share = share_BE[:, i, None, None]
    for name in shapes:
      x[name] += share * (said.x[name] - factors.x[name])
      delta[name] += share * (said.delta[name] - factors.delta[name])
  return Factors(x, delta, pseudo.mask)


def _small(network: HypernetworkConfig) -> HypernetworkConfig:
  """One expert's: together they have the rank of the hypernetwork."""
  return dataclasses.replace(network, rank=max(network.rank // EXPERTS, 1))
