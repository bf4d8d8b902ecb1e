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

from instructedit_jax.editing import head
from instructedit_jax.editing.edits import Edit
from instructedit_jax.models import decoder
from instructedit_jax.models.likeliest import likeliest
from instructedit_jax.training.batches import Batch

Metrics = dict[str, jax.Array]

_CERTAIN = -1e-4  # log p above which a label to avoid is as good as certain


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
  logit_bytes: int = head.LOGIT_BYTES,
) -> tuple[jax.Array, Metrics]:
  """Mean loss of the episodes, and what it is made of.

  Args:
    model: the decoder, frozen: the loss has no gradient in its head.
    edit: one edit an episode.
    batch: the queries.
    config: weights.
    logit_bytes: the largest array of logits a device may hold.

  Returns:
    the loss, and metrics: edit_loss and locality_kl (nats), token_accuracy
    (share of in-scope tokens predicted), locality_agreement (share of
    out-of-scope predictions unchanged).
  """
  query, kept = batch.query, batch.base.shape[1]
  hidden = model.suffix(query.hidden, query.sequence, edit.tap(), query.at)

  def unchanged(edited: jax.Array, base: jax.Array) -> head.PlaceLoss:
    return keep_loss(model.logits(base), edited)

  keep_B, agree_BK = head.head_loss(
    model.logits,
    unchanged,
    hidden[:, :kept],
    batch.weight[:, :kept],
    query.mask[:, :kept],
    batch.base,
    logit_bytes=logit_bytes,
  )
  edit_B, right_BP = head.head_loss(
    model.logits,
    edit_loss,
    hidden[:, kept:],
    batch.weight[:, kept:],
    query.mask[:, kept:],
    query.labels[:, kept:],
    batch.avoid,
    logit_bytes=logit_bytes,
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


def keep_loss(base: jax.Array, edited: jax.Array) -> head.PlaceLoss:
  """KL(base || edited) at every place, and whether the first choice stayed.

  Args:
    base, edited: logits [..., V].

  Returns:
    the divergence [...] in nats, its derivative with respect to `edited`
    [..., V], and bool [...].
  """
  value, slope = head.divergence(base, edited)
  return value, slope, likeliest(base) == likeliest(edited)


def edit_loss(
  logits: jax.Array, labels: jax.Array, avoid: jax.Array
) -> head.PlaceLoss:
  """-log p(label), or -log(1 - p) where it is to be avoided; and hits.

  Args:
    logits: [..., V].
    labels: int32 [...].
    avoid: bool [...].

  Returns:
    the loss [...] in nats, its derivative with respect to `logits` [..., V],
    and bool [...], whether the label is the first choice.
  """
  loss, slope, first = head.answer_loss(logits, labels)
  log_p = -loss
  # Bounded away from p = 1, where log(1 - p) has no gradient to speak of.
  bounded = jnp.minimum(log_p, _CERTAIN)
  loss = jnp.where(avoid, -jnp.log1p(-jnp.exp(bounded)), loss)
  away = jnp.where(log_p < _CERTAIN, jnp.exp(bounded) / jnp.expm1(bounded), 0)
  slope = slope * jnp.where(avoid, away, 1)[..., None]
  return loss, slope, first == labels


def _share(hits: jax.Array, mask: jax.Array) -> jax.Array:
  return (hits & mask).sum() / jnp.maximum(mask.sum(), 1)
