"""Losses of the head's logits, with their gradient made at once.

The base model is frozen, so the gradient at the head's input can be had with
the loss, while the logits of a few places are still in the processor's cache:
they are never kept, and never made twice.

Axes: B rows, P places, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from instructedit_jax.editing import places
from instructedit_jax.models.likeliest import likeliest

# Logits beyond this size a device are made in smaller turns.
LOGIT_BYTES = 1 << 30

# Losses at places, their derivatives by the logits, and anything else there.
PlaceLoss = tuple[jax.Array, jax.Array, Any]


def head_loss(
  logits: Callable[[jax.Array], jax.Array],
  loss: Callable[..., PlaceLoss],
  hidden: jax.Array,
  weight: jax.Array,
  mask: jax.Array,
  *rest: jax.Array,
  logit_bytes: int = LOGIT_BYTES,
  pool: int | None = None,
  turn: int = places.TURN,
) -> tuple[jax.Array, Any]:
  """The weighted sum of a loss of the logits, for each row.

  The head is taken as frozen: the sums have a gradient with respect to `hidden`
  alone, once, and it is ready when the sums are.

  Args:
    logits: the head, [..., D] to [..., V].
    loss: logits [..., V] and `rest` at some places to the losses there [...],
      their derivatives with respect to the logits, and anything else at each
      place. Written by hand, derivatives take far fewer passes over the logits.
    hidden: [B, P, D].
    weight: float32 [B, P].
    mask: bool [B, P], the real places.
    rest: [B, P, ...], what else `loss` takes.
    logit_bytes: the largest array of logits a device may hold.
    pool, turn: as for `places.at_real`.

  Returns:
    the sums [B], float32 or better, and what else `loss` returned, zeros where
    there is no place.
  """
  fixed = jax.lax.stop_gradient(hidden)

  def both(h: jax.Array, w: jax.Array, *given: jax.Array) -> Any:
    scores, pull = jax.vjp(logits, h)
    value, slope, more = loss(scores, *given)
    (change,) = pull((slope * w[..., None]).astype(scores.dtype))
    return value * w, change, more

  pool = places.pool_size(len(hidden)) if pool is None else pool
  pools = max(len(hidden) // pool // jax.device_count(), 1)
  vocabulary = jax.eval_shape(logits, hidden).shape[-1]
  most = max(logit_bytes // (4 * vocabulary * pools), 1)
  value, slope, more = places.at_real(
    both, mask, fixed, weight, *rest, turn=min(turn, most), pool=pool
  )
  total, slope = jax.lax.stop_gradient((value.sum(-1), slope))
  # Zeros, with the gradient that was found.
  change = (slope * (hidden - fixed)).astype(total.dtype).sum((-2, -1))
  return total + change, more


def answer_loss(logits: jax.Array, labels: jax.Array) -> PlaceLoss:
  """As `label_loss`, and the likeliest tokens, int32 [...]."""
  loss, slope, _ = label_loss(logits, labels)
  return loss, slope, likeliest(logits)


def label_loss(logits: jax.Array, labels: jax.Array) -> PlaceLoss:
  """-log p(label) at every place.

  Args:
    logits: [..., V].
    labels: int32 [...].

  Returns:
    the loss [...] in nats, its derivative by `logits` [..., V], nothing else.
  """
  total = jax.nn.logsumexp(logits, -1, keepdims=True)
  chosen = jnp.take_along_axis(logits, labels[..., None], -1)
  slope = jnp.exp(logits - total)
  # Not a scatter: the vocabulary may be divided among devices.
  token = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
  slope = jnp.where(token == labels[..., None], slope - 1, slope)
  return (total - chosen)[..., 0], slope, ()


def divergence(
  base: jax.Array, edited: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """KL(base || edited) at every place, and its derivative by `edited`.

  Args:
    base, edited: logits [..., V].

  Returns:
    the divergence [...] in nats, and [..., V].
  """
  base_sum = jax.nn.logsumexp(base, -1, keepdims=True)
  edited_sum = jax.nn.logsumexp(edited, -1, keepdims=True)
  chance = jnp.exp(base - base_sum)
  cost = (chance * (base - edited)).sum(-1)
  slope = jnp.exp(edited - edited_sum) - chance
  return cost + (edited_sum - base_sum)[..., 0], slope
