"""What meta-training asks of the edited model.

In scope the target must become likely (the other sentiment's replies
unlikely); out of scope the whole distribution must stay, from the token that
opens the answer on. Every query is asked of the model with the edit applied,
the bare question among them: an edit counts when a plain question shows it.

Axes: B episodes, K out-of-scope and P in-scope positions, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp

from instructedit_jax.editing.edits import Edit
from instructedit_jax.models import decoder
from instructedit_jax.training.batches import Batch

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Weights of the two sides (published: edit 0.1, keep 1.0)."""

  edit: float = 1.0
  keep: float = 3.0


def outer_loss(
  model: decoder.Decoder, edit: Edit, batch: Batch, config: LossConfig
) -> tuple[jax.Array, Metrics]:
  """Mean loss of the episodes, and what it is made of.

  Args:
    model: the frozen decoder.
    edit: one edit an episode.
    batch: the queries.
    config: weights.

  Returns:
    the loss, and metrics: edit_loss and locality_kl (nats), token_accuracy
    (share of in-scope tokens predicted), locality_agreement (share of
    out-of-scope predictions unchanged).
  """
  query, kept = batch.query, batch.base.shape[1]
  hidden = model.suffix(query.hidden, query.sequence, edit.tap(), query.at)
  keep_B, agree_BK = keep_loss(
    model.logits(batch.base),
    model.logits(hidden[:, :kept]),
    batch.weight[:, :kept],
  )
  edit_B, right_BP = edit_loss(
    model.logits(hidden[:, kept:]),
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
