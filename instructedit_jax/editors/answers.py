"""How well edits say their requests' answers.

Whether an edit gets a further round (`insistence`) and whether it is scaled
down (`restraint`) are both told by its own prompts: one look does for both.

Axes: B edits, one a row; P answer places.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from instructedit_jax.editing import head, places
from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.rows import Rows
from instructedit_jax.models import decoder


class Answers(NamedTuple):
  """What B edited models make of their own requests.

  Attributes:
    loss: float32 [B], mean loss of the answer's tokens in nats; 0 of a row of
      padding.
    said: bool [B], whether each of them is the likeliest; True of padding.
  """

  loss: jax.Array
  said: jax.Array


def answers_of(
  edit: LowRankEdit, model: decoder.Decoder, rows: Rows
) -> Answers:
  """The answers of each request with its edit.

  Args:
    edit: B independent edits, [B, R, ...].
    model: the frozen decoder.
    rows: the requests, one a row.
  """
  hidden = model.suffix(rows.hidden, rows.sequence, edit.tap(), rows.at)

  def at(h: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    loss, _, tokens = head.answer_loss(model.logits(h), labels)
    return loss, tokens == labels

  each_BP, right_BP = places.at_real(at, rows.mask, hidden, rows.labels)
  count_B = jnp.maximum(rows.mask.sum(-1), 1)
  return Answers(each_BP.sum(-1) / count_B, (right_BP | ~rows.mask).all(-1))
