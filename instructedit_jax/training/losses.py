"""What meta-training asks of the edited model.

In scope the target must become likely (the other sentiment's replies
unlikely); out of scope the whole distribution must stay, from the token that
opens the answer on. Every query is asked of the model with the edit applied,
the bare question among them: an edit counts when a plain question shows it.

Axes: B episodes, K out-of-scope and P in-scope positions, V vocabulary.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from instructedit_jax.editing.edits import Edit
from instructedit_jax.models import decoder
from instructedit_jax.training.batches import Batch

Metrics = dict[str, jax.Array]

# Logits [B, K, V] beyond this size a device are made a part after the other.
LOGIT_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Weights of the two sides (published: edit 0.1, keep 1.0)."""

  edit: float = 1.0
  keep: float = 3.0


def outer_loss(
  model: decoder.Decoder,
  edit: Edit,
  batch: Batch,
  config: LossConfig,
  logit_bytes: int = LOGIT_BYTES,
) -> tuple[jax.Array, Metrics]:
  """Mean loss of the episodes, and what it is made of.

  Args:
    model: the frozen decoder.
    edit: one edit an episode.
    batch: the queries.
    config: weights.
    logit_bytes: the largest array of logits a device may hold. Beyond it,
      positions take turns, and their logits are made again for the gradient.

  Returns:
    the loss, and metrics: edit_loss and locality_kl (nats), token_accuracy
    (share of in-scope tokens predicted), locality_agreement (share of
    out-of-scope predictions unchanged).
  """
  query, kept = batch.query, batch.base.shape[1]
  hidden = model.suffix(query.hidden, query.sequence, edit.tap(), query.at)
  # Devices share either the episodes or the vocabulary.
  position = 4 * len(hidden) * model.config.vocab // jax.device_count()
  most = max(logit_bytes // max(position, 1), 1)
  keep_B, agree_BK = _in_turns(
    lambda base, edited, *rest: keep_loss(
      model.logits(base), model.logits(edited), *rest
    ),
    most,
    batch.base,
    hidden[:, :kept],
    batch.weight[:, :kept],
  )
  edit_B, right_BP = _in_turns(
    lambda hidden, *rest: edit_loss(model.logits(hidden), *rest),
    most,
    hidden[:, kept:],
    query.labels[:, kept:],
    batch.weight[:, kept:],
    batch.avoid,
  )
  wanted = query.mask[:, kept:] & ~batch.avoid
  metrics = {
    "edit_loss": edit_B.mean(),
    "locality_kl": keep_B.mean(),
    "token_accuracy": _share(right_BP, wanted),
    "locality_agreement": _share(agree_BK, query.mask[:, :kept]),
  }
  loss = (
    config.edit * metrics["edit_loss"] + config.keep * metrics["locality_kl"]
  )
  return loss, {"loss": loss, **metrics}


def _in_turns(
  loss: Callable[..., tuple[jax.Array, jax.Array]],
  most: int,
  *arrays: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """loss(*arrays), for `most` positions at a time.

  Every position has all of its vocabulary, so the numbers are those of the
  whole, and a head divided among devices stays divided.

  Args:
    loss: arrays [B, p, ...] to sums [B] and hits [B, p].
    most: positions p that may be looked at together.
    arrays: [B, P, ...]; zeros in place of a position must add nothing.
  """
  positions = arrays[0].shape[1]
  if positions <= most:
    return loss(*arrays)
  turns = -(-positions // most)
  size = -(-positions // turns)

  def split(array: jax.Array) -> jax.Array:
    rest = [(0, 0)] * (array.ndim - 2)
    missing = turns * size - positions
    padded = jnp.pad(array, [(0, 0), (0, missing), *rest])
    shape = (len(array), turns, size, *array.shape[2:])
    return jnp.moveaxis(padded.reshape(shape), 1, 0)

  def turn(
    total: jax.Array, parts: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, jax.Array]:
    sums, hits = jax.checkpoint(loss)(*parts)
    return total + sums, hits

  start = jnp.zeros(len(arrays[0]), jnp.float32)
  total, hits = jax.lax.scan(turn, start, tuple(map(split, arrays)))
  hits = jnp.moveaxis(hits, 0, 1).reshape(len(arrays[0]), -1)
  return total, hits[:, :positions]


def keep_loss(
  base_BKV: jax.Array, edited_BKV: jax.Array, weight_BK: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """KL(base || edited) of each episode, and where the first choice stayed."""
  log_base = jax.nn.log_softmax(jax.lax.stop_gradient(base_BKV))
  chance = jnp.exp(log_base)
  # Written so that the gradient is softmax(edited) - chance at once.
  cross = jax.nn.logsumexp(edited_BKV, -1) - (chance * edited_BKV).sum(-1)
  divergence = cross + (chance * log_base).sum(-1)
  agree = base_BKV.argmax(-1) == edited_BKV.argmax(-1)
  return (divergence * weight_BK).sum(-1), agree


def edit_loss(
  logits_BPV: jax.Array,
  labels_BP: jax.Array,
  weight_BP: jax.Array,
  avoid_BP: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """-log p(label), or -log(1 - p) where it is to be avoided; and hits."""
  chosen = jnp.take_along_axis(logits_BPV, labels_BP[..., None], -1)[..., 0]
  log_p = chosen - jax.nn.logsumexp(logits_BPV, -1)
  # Bounded away from p = 1, where log(1 - p) has no gradient to speak of.
  log_not_p = jnp.log1p(-jnp.exp(jnp.minimum(log_p, -1e-4)))
  loss = jnp.where(avoid_BP, -log_not_p, -log_p)
  return (loss * weight_BP).sum(-1), logits_BPV.argmax(-1) == labels_BP


def _share(hits: jax.Array, mask: jax.Array) -> jax.Array:
  return (hits & mask).sum() / jnp.maximum(mask.sum(), 1)
