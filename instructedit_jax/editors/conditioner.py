"""How an instruction acts on the hypernetwork.

The instruction's tokens pass through the model's own prefix; their mean hidden
state is a free sentence embedding. A small network turns it into changes of the
hypernetwork's scales and shifts (feature-wise modulation, arXiv 1709.07871) and
of the edit's learning rates. All of it starts at zero, and is zero without an
instruction: then the editor is plain MEND.

Axes: B requests, D model width, C code, M matrices.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from instructedit_jax.editors import hypernetwork

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ConditionerConfig:
  """Size of the instruction's code.

  Attributes:
    code: numbers an instruction is summed up in.
    dropout: share of training episodes whose instruction is hidden.
  """

  code: int = 64
  dropout: float = 0.3


def init(
  key: jax.Array,
  width: int,
  matrices: int,
  sides: Mapping[str, Mapping[str, int]],
  depth: int,
  config: ConditionerConfig,
) -> Params:
  """Parameters with no effect yet.

  Args:
    key: a PRNG key.
    width: D of the model.
    matrices: M, number of editable matrices.
    sides: network -> side -> its width, from `hypernetwork.widths`.
    depth: layers of each network.
    config: size of the code.
  """

  def zeros(outputs: int) -> jax.Array:
    return jnp.zeros((config.code, outputs))

  return {
    "code": jax.random.normal(key, (width, config.code)) / width**0.5,
    "bias": jnp.zeros(config.code),
    "rates": zeros(matrices),
    "layers": {
      network: {
        side: [[zeros(size), zeros(size)] for _ in range(depth)]
        for side, size in parts.items()
      }
      for network, parts in sides.items()
    },
  }


def apply(
  params: Params, instruction_BD: jax.Array, given_B: jax.Array
) -> tuple[hypernetwork.Modulation, jax.Array]:
  """Changes of scales and shifts, and a factor on every learning rate.

  Args:
    params: from `init`.
    instruction_BD: pooled prefix states of the instruction.
    given_B: bool; False hides the instruction.

  Returns:
    a modulation for `hypernetwork.apply`, and factors [B, M].
  """
  size = jnp.square(instruction_BD).mean(-1, keepdims=True)
  unit = instruction_BD * jax.lax.rsqrt(size + 1e-6)
  code = jax.nn.gelu(unit @ params["code"] + params["bias"][None, :])
  code = jnp.where(given_B[:, None], code, 0)
  modulation = jax.tree.map(lambda table: code @ table, params["layers"])
  return modulation, jnp.exp(code @ params["rates"])
