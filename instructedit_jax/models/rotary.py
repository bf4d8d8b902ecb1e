"""Rotary position embedding, half-split convention."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from instructedit_jax.models.config import DecoderConfig, RopeScaling


def inverse_frequencies(config: DecoderConfig) -> tuple[np.ndarray, float]:
  """Radians per token for each pair of coordinates, and a factor on cos/sin.

  Returns:
    [head_dim / 2] float64 and a float (1 but for "yarn").
  """
  half = np.arange(0, config.head_dim, 2) / config.head_dim
  base = 1.0 / config.rope_theta**half
  scaling = config.rope_scaling
  if scaling is None:
    return base, 1.0
  if scaling.kind == "linear":
    return base / scaling.factor, 1.0
  if scaling.kind == "llama3":
    return _llama3(base, scaling), 1.0
  if scaling.kind == "yarn":
    return _yarn(base, scaling, config), scaling.attention_factor
  raise ValueError(f"unknown rope scaling {scaling.kind!r}")


def _llama3(base: np.ndarray, scaling: RopeScaling) -> np.ndarray:
  """Slow frequencies are stretched, fast ones kept, a ramp in between."""
  wavelength = 2 * math.pi / base
  low = scaling.original_context / scaling.low_freq_factor
  high = scaling.original_context / scaling.high_freq_factor
  ramp = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
    scaling.high_freq_factor - scaling.low_freq_factor
  )
  mixed = (1 - ramp) * base / scaling.factor + ramp * base
  scaled = np.where(wavelength > low, base / scaling.factor, base)
  return np.where((wavelength <= low) & (wavelength >= high), mixed, scaled)


def _yarn(
  base: np.ndarray, scaling: RopeScaling, config: DecoderConfig
) -> np.ndarray:
  """Interpolates slow dimensions and keeps fast ones (arXiv 2309.00071)."""

  def dimension(rotations: float) -> float:
    return (
      config.head_dim
      * math.log(scaling.original_context / (rotations * 2 * math.pi))
      / (2 * math.log(config.rope_theta))
    )

  low = max(math.floor(dimension(scaling.beta_fast)), 0)
  high = min(math.ceil(dimension(scaling.beta_slow)), config.head_dim - 1)
  ramp = np.clip(
    (np.arange(config.head_dim // 2) - low) / max(high - low, 0.001), 0, 1
  )
  return base / scaling.factor * ramp + base * (1 - ramp)


def rotate(
  x_BTHK: jax.Array, positions_BT: jax.Array, config: DecoderConfig
) -> jax.Array:
  """Rotates each head's coordinate pairs by its token's position.

  Args:
    x_BTHK: queries or keys, [batch, tokens, heads, head_dim].
    positions_BT: int32 position of each token in its own sequence.
    config: gives the frequencies.
  """
  frequencies, factor = inverse_frequencies(config)
  # At least float32: bfloat16 cannot tell neighbouring positions apart.
  dtype = jnp.promote_types(x_BTHK.dtype, jnp.float32)
  angle = positions_BT[..., None].astype(dtype) * jnp.asarray(
    frequencies, dtype
  ).reshape((1,) * positions_BT.ndim + (-1,))
  cos = (jnp.cos(angle) * factor)[..., None, :].astype(x_BTHK.dtype)
  sin = (jnp.sin(angle) * factor)[..., None, :].astype(x_BTHK.dtype)
  left, right = jnp.split(x_BTHK, 2, axis=-1)
  return jnp.concatenate(
    [left * cos - right * sin, right * cos + left * sin], axis=-1
  )
