"""How an instruction acts on the hypernetwork.

The instruction's tokens pass through the model's own prefix; their hidden
states make a free sentence embedding (`pooled`). A small network turns it into
changes of the hypernetwork's scales and shifts (feature-wise modulation, arXiv
1709.07871) and of the edit's learning rates. All of it starts at zero, and is
zero without an instruction: then the editor is plain MEND.

Language models carry a few coordinates that are a hundred times larger than the
others and the same in every sentence, and a first token that is larger still.
Left as they are, 99 % of an embedding is the same for all instructions: hence
`pooled` and the whitening by what training has seen.

Axes: B requests, T tokens, D model width, I = 2 D of an embedding, C code,
M matrices.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instructedit_jax.editing import statistics as stats
from instructedit_jax.editors import hypernetwork

Params = dict[str, Any]

# The end of an instruction counts by itself: a mean over forty tokens hardly
# shows what one sentence adds.
_LAST = 8
# Coordinates of tokens are about one: what varies less than this is noise.
_FLOOR = 0.02


@dataclasses.dataclass(frozen=True)
class ConditionerConfig:
  """Size of the instruction's code.

  Attributes:
    code: numbers an instruction is summed up in.
    dropout: share of training episodes whose instruction is hidden.
    unheard: most of an instruction's tokens that a training episode leaves
      out: a few sentences a task are soon known by heart.
  """

  code: int = 64
  dropout: float = 0.3
  unheard: float = 0.6


def size(width: int) -> int:
  """I of a model of that width."""
  return 2 * width


def heard(hidden: np.ndarray, unheard: float, seed: int) -> np.ndarray:
  """An instruction's states without some of its tokens.

  Args:
    hidden: [T, D], prefix states of its tokens.
    unheard: probability that a token is left out. The first stays, and one
      more at least.
    seed: which they are.
  """
  if not unheard or len(hidden) < 2:
    return hidden
  chance = np.random.default_rng(seed).random(len(hidden))
  kept = chance >= unheard
  kept[0] = kept[1 + int(chance[1:].argmax())] = True
  return hidden[kept]


def pooled(hidden: np.ndarray) -> np.ndarray:
  """An instruction as one vector: the means of its tokens and of its last ones.

  Args:
    hidden: [T, D], prefix states of its tokens.

  Returns:
    float32 [I]; every token counts with a root mean square of one, the first,
    which holds next to nothing but its size, does not.
  """
  tokens = hidden[1:] if len(hidden) > 1 else hidden
  square = np.square(tokens).mean(-1, keepdims=True)
  unit = tokens / np.sqrt(square + 1e-6)
  return np.concatenate([unit.mean(0), unit[-_LAST:].mean(0)])


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

  inputs = size(width)

  def zeros(outputs: int) -> jax.Array:
    return jnp.zeros((config.code, outputs))

  return {
    "code": jax.random.normal(key, (inputs, config.code)) / inputs**0.5,
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
  params: Params,
  moments: stats.Moments,
  instruction_BI: jax.Array,
  given_B: jax.Array,
) -> tuple[hypernetwork.Modulation, jax.Array]:
  """Changes of scales and shifts, and a factor on every learning rate.

  Args:
    params: from `init`.
    moments: of the instructions seen in training.
    instruction_BI: the instructions, from `pooled`.
    given_B: bool; False hides the instruction.

  Returns:
    a modulation for `hypernetwork.apply`, and factors [B, M].
  """
  plain = stats.whiten(moments, instruction_BI, _FLOOR)
  code = jax.nn.gelu(plain @ params["code"] + params["bias"][None, :])
  code = jnp.where(given_B[:, None], code, 0)
  modulation = jax.tree.map(lambda table: code @ table, params["layers"])
  return modulation, jnp.exp(code @ params["rates"])
