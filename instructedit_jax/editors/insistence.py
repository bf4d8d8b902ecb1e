"""An edit that does not say its answer yet is taken a round further.

The rounds that an editor was trained with are right for most requests and too
few for some: long answers, names in another language, tokens that the model
would never have said. One more for every request reaches neighbours; here only
those get it whose own prompt, in either form, still has another likeliest token
somewhere in its answer. The counterpart of `restraint`, in use only.

Axes: B edits, one a row; P answer places.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from instructedit_jax.editing import places
from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.rows import Rows
from instructedit_jax.models import decoder
from instructedit_jax.models.likeliest import likeliest


def insisted(
  edit: LowRankEdit,
  model: decoder.Decoder,
  rows: Rows,
  another: Callable[[LowRankEdit], LowRankEdit],
  rounds: int,
) -> LowRankEdit:
  """The edits, with up to `rounds` more where an answer is not said.

  Args:
    edit: B independent edits, [B, R, ...].
    model: the frozen decoder.
    rows: the requests, one a row.
    another: what one more round adds to such edits, [B, R', ...].
    rounds: at most so many are added; 0 leaves every edit as it is.

  Returns:
    [B, R + rounds * R', ...]: zeros where nothing was added.
  """
  for _ in range(rounds):
    unsaid_B = ~says_answers(model, rows, edit)
    edit = edit + _where(unsaid_B, another, edit)
  return edit


def _where(
  wanted_B: jax.Array,
  another: Callable[[LowRankEdit], LowRankEdit],
  edit: LowRankEdit,
) -> LowRankEdit:
  """Another round for some of the edits, zeros for the rest."""
  nothing = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(another, edit),
  )
  # Where no edit of the batch wants one, the question is all it costs.
  added = jax.lax.cond(wanted_B.any(), another, lambda _: nothing, edit)
  # Not times 0: where a round is not wanted, it need not be finite either.
  return jax.tree.map(
    lambda leaf, none: jnp.where(wanted_B[:, None, None], leaf, none),
    added,
    nothing,
  )


def says_answers(
  model: decoder.Decoder, rows: Rows, edit: LowRankEdit
) -> jax.Array:
  """Whether each answer's tokens are all the likeliest, bool [B].

  True of a row of padding.
  """
  hidden = model.suffix(rows.hidden, rows.sequence, edit.tap(), rows.at)
  tokens_BP = places.at_real(
    lambda h: likeliest(model.logits(h)), rows.mask, hidden
  )
  return ((tokens_BP == rows.labels) | ~rows.mask).all(-1)
