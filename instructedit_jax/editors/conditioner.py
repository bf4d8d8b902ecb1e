"""What a hypernetwork reads of an instruction.

The instruction's tokens pass through the model's own prefix; their hidden
states make a free sentence embedding (`pooled`), and a small layer a code. What
a code does to an edit is a form of its own: `modulation`, `row_weights`,
`experts`. Each starts without any effect and has none without an instruction:
then the editor is plain MEND.

Language models carry a few coordinates that are a hundred times larger than the
others and the same in every sentence, and a first token that is larger still.
Left as they are, 99 % of an embedding is the same for all instructions: hence
`pooled` and the whitening by what training has seen.

Axes: B requests, T tokens, D model width, I = 2 D of an embedding, C code,
M matrices.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from instructedit_jax.editing import statistics as stats
from instructedit_jax.editing.factors import Factors
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


class Form(Protocol):
  """What instructions do to a hypernetwork; a module will do."""

  def init(
    self,
    key: jax.Array,
    shapes: hypernetwork.Shapes,
    network: hypernetwork.HypernetworkConfig,
    config: ConditionerConfig,
    /,
  ) -> Params:
    """Parameters with no effect yet, beside those of the code.

    Args:
      key: a PRNG key.
      shapes: the editable matrices, in listed order.
      network: the hypernetwork.
      config: size of the code.
    """

  def apply(
    self,
    params: Params,
    network: hypernetwork.Params,
    shapes: hypernetwork.Shapes,
    config: hypernetwork.HypernetworkConfig,
    factors: Factors,
    code: jax.Array,
    given: jax.Array,
    /,
  ) -> Factors:
    """Pseudo-activations and pseudo-deltas of who is told something.

    Args:
      params: those of `init`, maybe among others.
      network: the hypernetwork's own.
      shapes: the editable matrices, in listed order.
      config: the hypernetwork.
      factors: whitened rows [B, R, ...].
      code: float [B, C], zero where nothing is said.
      given: bool [B], False where nothing is said.
    """


def init(
  key: jax.Array, width: int, matrices: int, config: ConditionerConfig
) -> Params:
  """Parameters of the code and of the step sizes, which do nothing yet.

  Args:
    key: a PRNG key.
    width: D of the model.
    matrices: M, number of editable matrices.
    config: size of the code.
  """
  inputs = size(width)
  return {
    "code": jax.random.normal(key, (inputs, config.code)) / inputs**0.5,
    "bias": jnp.zeros(config.code),
    "rates": jnp.zeros((config.code, matrices)),
  }


def read(
  params: Params,
  moments: stats.Moments,
  instruction: jax.Array,
  given: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """What instructions come to.

  Args:
    params: from `init`.
    moments: of all instructions seen in training.
    instruction: float [B, I] of each request, from `pooled`.
    given: bool [B], False where there is none.

  Returns:
    the codes [B, C], zero where nothing is said, and factors [B, M] on step
    sizes, one there.
  """
  plain = stats.whiten(moments, instruction, _FLOOR)
  code = jax.nn.gelu(plain @ params["code"] + params["bias"][None, :])
  code = jnp.where(given[:, None], code, 0)
  return code, jnp.exp(code @ params["rates"])
