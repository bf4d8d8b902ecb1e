"""The parts of a decoder: linear maps, norms, attention, MLP and block.

Axes: B rows, T tokens, P scored positions, D width, H heads, K head_dim.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from instructedit_jax.models import rotary
from instructedit_jax.models.config import DecoderConfig

# (matrix name, its input x [..., n], its output y [..., m]) -> new output.
Tap = Callable[[str, jax.Array, jax.Array], jax.Array]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "relu": jax.nn.relu,
  "silu": jax.nn.silu,
}


class Linear(nnx.Module):
  """y = x W + b with W [inputs, outputs]."""

  def __init__(self, n: int, m: int, bias: bool, rngs: nnx.Rngs):
    init = nnx.initializers.normal(0.02)
    self.kernel = nnx.Param(init(rngs.params(), (n, m)))
    self.bias = nnx.Param(jnp.zeros((m,))) if bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., n] to [..., m] in the dtype of x."""
    y = product(x, self.kernel[...])
    if self.bias is not None:
      y = y + _like(self.bias[...], y)
    return y


class Norm(nnx.Module):
  """LayerNorm or RMSNorm over the last axis, in float32 or better."""

  def __init__(self, width: int, config: DecoderConfig):
    self.eps = config.norm_eps
    self.scale = nnx.Param(jnp.ones((width,)))
    centred = config.norm == "layer"
    self.bias = nnx.Param(jnp.zeros((width,))) if centred else None

  def __call__(self, x: jax.Array) -> jax.Array:
    """Same shape and dtype as x."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if self.bias is not None:
      wide = wide - wide.mean(-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(
      jnp.square(wide).mean(-1, keepdims=True) + self.eps
    )
    wide = wide * _like(self.scale[...], wide)
    if self.bias is not None:
      wide = wide + _like(self.bias[...], wide)
    return wide.astype(x.dtype)


class Attention(nnx.Module):
  """Multi-head attention with grouped keys and values."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    self.config = config
    queries = config.heads * config.head_dim
    keys = config.kv_heads * config.head_dim
    self.q = Linear(config.width, queries, config.qkv_bias, rngs)
    self.k = Linear(config.width, keys, config.qkv_bias, rngs)
    self.v = Linear(config.width, keys, config.qkv_bias, rngs)
    self.out = Linear(queries, config.width, config.out_bias, rngs)
    self.q_norm = Norm(config.head_dim, config) if config.qk_norm else None
    self.k_norm = Norm(config.head_dim, config) if config.qk_norm else None

  def keys_values(
    self, x: jax.Array, positions: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Rotated keys and values, [B, T, kv_heads, head_dim] each."""
    shape = (*x.shape[:-1], self.config.kv_heads, self.config.head_dim)
    keys = self._place(self.k(x).reshape(shape), self.k_norm, positions)
    return keys, self.v(x).reshape(shape)

  def __call__(
    self,
    x: jax.Array,
    positions: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array,
  ) -> jax.Array:
    """Attends from x [B, Q, D] to keys and values under mask [B, Q, S]."""
    shape = (*x.shape[:-1], self.config.heads, self.config.head_dim)
    queries = self._place(self.q(x).reshape(shape), self.q_norm, positions)
    mixed = attend(queries, keys, values, mask[:, None])
    return self.out(mixed.reshape(*x.shape[:-1], -1))

  def _place(
    self, heads: jax.Array, norm: Norm | None, positions: jax.Array
  ) -> jax.Array:
    if norm is not None:
      heads = norm(heads)
    if self.config.positions == "rotary":
      heads = rotary.rotate(heads, positions, self.config)
    return heads


def attend(
  queries: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array
) -> jax.Array:
  """Softmax attention; a query that sees nothing gets zeros.

  jax.nn.dot_product_attention would round the softmax of float64 queries to
  float32, and average everything where nothing is seen.

  Args:
    queries: [B, Q, heads, head_dim].
    keys, values: [B, S, kv_heads, head_dim]; kv_heads divides heads.
    mask: bool [B, 1, Q, S].
  """
  dtype = jnp.promote_types(queries.dtype, jnp.float32)
  rows, length, heads, size = queries.shape
  groups = keys.shape[2]
  split = queries.reshape(rows, length, groups, heads // groups, size)
  scores = jnp.einsum(
    "bqgrk,bsgk->bgrqs", split, keys, preferred_element_type=dtype
  )
  seen = mask[:, :, None]
  scores = jnp.where(seen, scores / size**0.5, jnp.finfo(dtype).min)
  weights = jnp.where(seen, jax.nn.softmax(scores, -1), 0)
  mixed = jnp.einsum(
    "bgrqs,bsgk->bqgrk",
    weights.astype(values.dtype),
    values,
    preferred_element_type=dtype,
  )
  return mixed.reshape(queries.shape).astype(values.dtype)


class Mlp(nnx.Module):
  """The feed-forward part; `name` and `tap` expose its matrices."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    self.activation = config.activation
    width, ffn, bias = config.width, config.ffn, config.mlp_bias
    self.gate = Linear(width, ffn, bias, rngs) if config.gated else None
    self.up = Linear(width, ffn, bias, rngs)
    self.down = Linear(ffn, width, bias, rngs)

  def __call__(
    self, x: jax.Array, tap: Tap | None = None, name: str = ""
  ) -> jax.Array:
    """[..., D] to [..., D]; the tap sees f"{name}.gate" and so on."""

    def linear(matrix: str, x: jax.Array) -> jax.Array:
      y = getattr(self, matrix)(x)
      return y if tap is None else tap(f"{name}.{matrix}", x, y)

    activation = ACTIVATIONS[self.activation]
    if self.gate is None:
      hidden = activation(linear("up", x))
    else:
      hidden = activation(linear("gate", x)) * linear("up", x)
    return linear("down", hidden)


class Block(nnx.Module):
  """x + attention(norm(x)), then x + mlp(norm(x))."""

  def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
    self.attention_norm = Norm(config.width, config)
    self.attention = Attention(config, rngs)
    self.mlp_norm = Norm(config.width, config)
    self.mlp = Mlp(config, rngs)

  def attend(
    self, h: jax.Array, positions: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """The attention half over whole rows."""
    x = self.attention_norm(h)
    keys, values = self.attention.keys_values(x, positions)
    return h + self.attention(x, positions, keys, values, mask)

  def attend_at(
    self,
    h: jax.Array,
    positions: jax.Array,
    mask: jax.Array,
    at: jax.Array,
  ) -> jax.Array:
    """As `attend`, its output only at token indices `at` [B, P]."""
    x = self.attention_norm(h)
    keys, values = self.attention.keys_values(x, positions)
    return take_tokens(h, at) + self.attention(
      take_tokens(x, at),
      take_tokens(positions, at),
      keys,
      values,
      take_tokens(mask, at),
    )

  def attend_cached(
    self,
    h: jax.Array,
    positions: jax.Array,
    mask: jax.Array,
    keys: jax.Array,
    values: jax.Array,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `attend`, writing new keys and values into the cache's slots."""
    x = self.attention_norm(h)
    new_keys, new_values = self.attention.keys_values(x, positions)
    rows = jnp.arange(h.shape[0])[:, None]
    keys = keys.at[rows, positions].set(new_keys.astype(keys.dtype))
    values = values.at[rows, positions].set(new_values.astype(values.dtype))
    mixed = self.attention(
      x, positions, keys.astype(h.dtype), values.astype(h.dtype), mask
    )
    return h + mixed, keys, values

  def feed(
    self, h: jax.Array, tap: Tap | None = None, name: str = ""
  ) -> jax.Array:
    """The MLP half."""
    return h + self.mlp(self.mlp_norm(h), tap, name)


def product(
  x: jax.Array, kernel: jax.Array, *, transposed: bool = False
) -> jax.Array:
  """x W in the dtype of x, [..., n] times [n, m].

  A kernel of half precision is never copied to a wider type, forwards or
  backwards: float32 x is rounded like the kernel. Products are summed in
  float32.

  Args:
    x: [..., n].
    kernel: [n, m].
    transposed: the kernel is [m, n].
  """
  axis = int(transposed)
  half = jnp.finfo(kernel.dtype).bits < 32
  if half and x.dtype in (jnp.float32, kernel.dtype):
    # Asked for half-precision sums, CPUs would multiply widened copies.
    return _rounded_product(x.astype(jnp.float32), kernel, axis).astype(x.dtype)
  return _contracted(x, kernel.astype(x.dtype), axis, x.dtype)


def summed(rule: str, x: jax.Array, w: jax.Array) -> jax.Array:
  """An einsum of x and w, w rounded to the dtype of x and the result in it.

  Summed in float32 or better, for the same reason as `product`.
  """
  wide = jnp.promote_types(x.dtype, jnp.float32)
  w = w.astype(x.dtype)
  y = jnp.einsum(rule, x, w, preferred_element_type=wide)
  return y.astype(x.dtype)


def _contracted(
  x: jax.Array, kernel: jax.Array, axis: int, dtype: jnp.dtype
) -> jax.Array:
  """x's last axis against one of the kernel's.

  Not the product with a transposed kernel: of one of half precision a CPU makes
  a transposed copy first, which for a head takes longer than to use it. Loops
  make it once, but hold it.
  """
  axes = ((x.ndim - 1,), (axis,)), ((), ())
  return jax.lax.dot_general(x, kernel, axes, preferred_element_type=dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rounded_product(x: jax.Array, kernel: jax.Array, axis: int) -> jax.Array:
  return _contracted(x.astype(kernel.dtype), kernel, axis, x.dtype)


def _rounded_product_forward(
  x: jax.Array, kernel: jax.Array, axis: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _rounded_product(x, kernel, axis), (x.astype(kernel.dtype), kernel)


def _rounded_product_backward(
  axis: int, kept: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = kept
  # The usual rule would multiply float32 with a widened copy of the kernel.
  dx = _rounded_product(dy, kernel, 1 - axis)
  left, right = (
    side.reshape(-1, side.shape[-1]).astype(kernel.dtype)
    for side in ((dy, x) if axis else (x, dy))
  )
  return dx, _contracted(left.T, right, 0, dy.dtype).astype(kernel.dtype)


_rounded_product.defvjp(_rounded_product_forward, _rounded_product_backward)


def take_tokens(x: jax.Array, at: jax.Array) -> jax.Array:
  """Rows of x [B, T, ...] at token indices `at` [B, P]: [B, P, ...]."""
  index = at.reshape(at.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, index, axis=1)


def _like(vector: jax.Array, y: jax.Array) -> jax.Array:
  """A [m] parameter shaped and typed to broadcast against y [..., m]."""
  return vector.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
