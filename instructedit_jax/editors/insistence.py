"""An edit that does not say its answer yet is taken a round further.

The rounds that an editor was trained with are right for most requests and too
few for some: long answers, names in another language, tokens that the model
would never have said. One more for every request reaches neighbours; here only
those get it whose own prompt, in either form, still has another likeliest token
somewhere in its answer. The counterpart of `restraint`, in use only.

Axes: B edits, one a row.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editors.answers import Answers, answers_of
from instructedit_jax.models import decoder

# What one more round adds to edits [B, R, ...], [B, R', ...].
Another = Callable[[LowRankEdit], LowRankEdit]


def insisted(
  edit: LowRankEdit,
  answers: Answers,
  model: decoder.Decoder,
  rows: Rows,
  another: Another,
  rounds: int,
) -> tuple[LowRankEdit, Answers]:
  """The edits, with up to `rounds` more where an answer is not said.

  Args:
    edit: B independent edits, [B, R, ...].
    answers: what they say.
    model: the frozen decoder.
    rows: the requests, one a row.
    another: makes one more round.
    rounds: at most so many are added; 0 leaves every edit as it is.

  Returns:
    [B, R + rounds * R', ...], zeros where nothing was added, and what these
    edits say.
  """
  for _ in range(rounds):
    added, answers = _round(edit, answers, model, rows, another)
    edit = edit + added
  return edit, answers


def _round(
  edit: LowRankEdit,
  answers: Answers,
  model: decoder.Decoder,
  rows: Rows,
  another: Another,
) -> tuple[LowRankEdit, Answers]:
  """One more round where an answer is not said, zeros elsewhere."""
  nothing = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(another, edit),
  )

  def insist() -> tuple[LowRankEdit, Answers]:
    # Not times 0: where a round is not wanted, it need not be finite either.
    added = jax.tree.map(
      lambda leaf, none: jnp.where(answers.said[:, None, None], none, leaf),
      another(edit),
      nothing,
    )
    return added, answers_of(edit + added, model, rows)

  # Where every answer of a batch is said, nothing is computed.
  return jax.lax.cond(answers.said.all(), lambda: (nothing, answers), insist)
