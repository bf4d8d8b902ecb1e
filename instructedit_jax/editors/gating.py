"""KnowledgeEditor's networks: from a request's text to gates on a gradient.

A bidirectional LSTM reads the text's token embeddings, and a linear map with a
tanh sums its two last states up in a code c. For each matrix a network of two
weight-normalised layers (arXiv 1602.07868), with a tanh between them, turns c
into two vectors over its inputs, two over its outputs, and one number.

Axes: B requests, C tokens of text, D width, H units, K code, n inputs and m
outputs of a matrix.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from instructedit_jax.errors import require_least

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class GatingConfig:
  """Sizes, as published by default.

  Attributes:
    units: of the LSTM in each direction.
    code: numbers that a request is summed up in.
    hidden: units of each matrix's network.
    scale: largest factor on a matrix's update. Published: 1. 0 takes its
      number of outputs m: gates that are spread evenly over the outputs, 1/m
      each, then leave a gradient's size as it is.
  """

  units: int = 128
  code: int = 1024
  hidden: int = 128
  scale: float = 0.0

  def __post_init__(self):
    require_least(self, "editor.gates.", units=1, code=1, hidden=1, scale=0)


class Gates(NamedTuple):
  """What a matrix's network says of B requests.

  Attributes:
    inputs: [B, n] and outputs: [B, m], whose product gates the gradient; the
      outputs' are positive and add up to 1.
    own_inputs, own_outputs: likewise, whose product is added to it.
    strength: [B], between 0 and 1.
  """

  inputs: jax.Array
  outputs: jax.Array
  own_inputs: jax.Array
  own_outputs: jax.Array
  strength: jax.Array


def init(
  key: jax.Array,
  width: int,
  matrices: Mapping[str, tuple[int, int]],
  config: GatingConfig,
) -> Params:
  """Fresh parameters, whose gates on the inputs are zero: no edit yet.

  Args:
    key: a PRNG key.
    width: D, of the token embeddings.
    matrices: name -> (n, m).
    config: sizes.
  """
  forward, backward, out, *rest = jax.random.split(key, 3 + 2 * len(matrices))
  networks = {}
  for i, (name, (n, m)) in enumerate(matrices.items()):
    last = _normed(rest[2 * i + 1], config.hidden, 2 * (n + m) + 1)
    # Published: random. The first edits would be noise.
    silent = jnp.arange(2 * (n + m) + 1) < 2 * n
    for part in ("length", "bias"):
      last[part] = jnp.where(silent, 0, last[part])
    networks[name] = {
      "first": _normed(rest[2 * i], config.code, config.hidden),
      "last": last,
    }
  return {
    "forward": _lstm(forward, width, config.units),
    "backward": _lstm(backward, width, config.units),
    "sum": _linear(out, 2 * config.units, config.code),
    "networks": networks,
  }


def apply(
  params: Params,
  matrices: Mapping[str, tuple[int, int]],
  text_BCD: jax.Array,
  mask_BC: jax.Array,
) -> dict[str, Gates]:
  """The gates of every matrix.

  Args:
    params: from `init`.
    matrices: as for `init`.
    text_BCD: the requests' token embeddings.
    mask_BC: bool, which of them are there; the others are skipped.
  """
  code_BK = summary(params, text_BCD, mask_BC)
  found = {}
  for name, (n, m) in matrices.items():
    layers = params["networks"][name]
    hidden = jnp.tanh(_weigh(layers["first"], code_BK))
    parts = jnp.split(
      _weigh(layers["last"], hidden), [n, 2 * n, 2 * n + m, 2 * (n + m)], -1
    )
    found[name] = Gates(
      inputs=parts[0],
      own_inputs=parts[1],
      outputs=jax.nn.softmax(parts[2]),
      own_outputs=jax.nn.softmax(parts[3]),
      strength=jax.nn.sigmoid(parts[4][:, 0]),
    )
  return found


def summary(
  params: Params, text_BCD: jax.Array, mask_BC: jax.Array
) -> jax.Array:
  """The code of each text, [B, K]; see `apply`."""
  both = [
    last_state(params[way], text_BCD, mask_BC, reverse=way == "backward")
    for way in ("forward", "backward")
  ]
  return jnp.tanh(_plain(params["sum"], jnp.concatenate(both, -1)))


def last_state(
  params: Params,
  text_BCD: jax.Array,
  mask_BC: jax.Array,
  reverse: bool = False,
) -> jax.Array:
  """State of one LSTM behind its last token (its first, in reverse), [B, H].

  With [i f g o] = x W + h U + b, a step makes the cell
  sigmoid(f) c + sigmoid(i) tanh(g) and the state sigmoid(o) tanh(cell).
  """
  fed_BC4H = text_BCD @ params["inputs"] + params["bias"][None, None, :]

  def step(state: Any, now: Any) -> tuple[Any, None]:
    (h, cell), (fed, there) = state, now
    i, f, g, o = jnp.split(fed + h @ params["states"], 4, -1)
    new = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    after = jax.nn.sigmoid(o) * jnp.tanh(new), new
    kept = jax.tree.map(
      lambda a, b: jnp.where(there[:, None], a, b), after, (h, cell)
    )
    return kept, None

  shape = (text_BCD.shape[0], params["states"].shape[0])
  start = jnp.zeros(shape, fed_BC4H.dtype), jnp.zeros(shape, fed_BC4H.dtype)
  steps = jnp.moveaxis(fed_BC4H, 1, 0), mask_BC.T
  (h, _), _ = jax.lax.scan(step, start, steps, reverse=reverse)
  return h


def _uniform(key: jax.Array, shape: tuple[int, ...], inputs: int) -> jax.Array:
  bound = inputs**-0.5
  return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def _lstm(key: jax.Array, inputs: int, units: int) -> Params:
  keys = jax.random.split(key, 3)
  return {
    "inputs": _uniform(keys[0], (inputs, 4 * units), units),
    "states": _uniform(keys[1], (units, 4 * units), units),
    "bias": _uniform(keys[2], (4 * units,), units),
  }


def _linear(key: jax.Array, inputs: int, outputs: int) -> Params:
  keys = jax.random.split(key)
  return {
    "kernel": _uniform(keys[0], (inputs, outputs), inputs),
    "bias": _uniform(keys[1], (outputs,), inputs),
  }


def _plain(params: Params, x: jax.Array) -> jax.Array:
  return x @ params["kernel"] + params["bias"][None, :]


def _normed(key: jax.Array, inputs: int, outputs: int) -> Params:
  """As `_linear`, each column as its direction and its length."""
  made = _linear(key, inputs, outputs)
  return {
    "direction": made["kernel"],
    "length": jnp.linalg.norm(made["kernel"], axis=0),
    "bias": made["bias"],
  }


def _weigh(params: Params, x: jax.Array) -> jax.Array:
  norm = jnp.linalg.norm(params["direction"], axis=0)
  scale = params["length"] / norm
  return (x @ params["direction"]) * scale[None, :] + params["bias"][None, :]
