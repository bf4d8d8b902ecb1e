"""An edit no stronger than it need be.

One rule serves facts that a model hardly knows and facts that it is sure of,
questions of three words and of thirty; what the hard ones need is too much for
the easy ones, where it reaches neighbours ("the capital of Italy is Lyon") and
repeats itself. The request's own prompt tells: an edit that gives its answer a
loss below `enough` is scaled down as far as the loss stays there. What is
enough for the prompt may be too little for other wordings of it, which is why
the default is next to nothing.

Axes: B edits, one a row.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editors.answers import Answers, answers_of
from instructedit_jax.models import decoder

# Strengths are multiples of 2^-_HALVINGS.
_HALVINGS = 4


def restrained(
  edit: LowRankEdit,
  answers: Answers,
  model: decoder.Decoder,
  rows: Rows,
  enough: float,
) -> LowRankEdit:
  """The edits, scaled down where their own answers are more than sure.

  Args:
    edit: B independent edits.
    answers: what they say.
    model: the frozen decoder.
    rows: the requests, one a row.
    enough: mean loss of an answer's tokens, in nats, that will do; 0 leaves
      every edit as it is.
  """
  if not enough:
    return edit

  def loss(strength_B: jax.Array) -> jax.Array:
    scaled = edit.scale(strength_B[:, None, None])
    return answers_of(scaled, model, rows).loss

  # Padding has nothing to spare: it must not keep the search going.
  whole_B = jnp.where(rows.mask.any(-1), answers.loss, jnp.inf)
  strength_B = least_strength(loss, whole_B, enough)
  return edit.scale(strength_B[:, None, None])


def least_strength(
  loss: Callable[[jax.Array], jax.Array], whole_B: jax.Array, enough: float
) -> jax.Array:
  """A strength of at most 1 whose loss is still `enough`, found by halving.

  The loss there has been seen, so that nothing depends on its falling steadily;
  where it does, the strength is the least one, up to one sixteenth.

  Args:
    loss: strengths [B] to losses [B].
    whole_B: the losses at strength 1.
    enough: the largest loss that will do.

  Returns:
    float32 [B]; 1 where the loss at 1 is not below `enough`.
  """
  spare_B = whole_B < enough

  def going_on(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    # Most batches have no edit to spare, and end here.
    return (state[0] < _HALVINGS) & spare_B.any()

  def halve(
    state: tuple[jax.Array, jax.Array, jax.Array],
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    turn, low_B, high_B = state
    middle_B = (low_B + high_B) / 2
    does_B = loss(middle_B) <= enough
    low_B = jnp.where(does_B, low_B, middle_B)
    return turn + 1, low_B, jnp.where(does_B, middle_B, high_B)

  none_B, all_B = jnp.zeros(len(whole_B)), jnp.ones(len(whole_B))
  start = (jnp.zeros((), jnp.int32), none_B, all_B)
  _, _, high_B = jax.lax.while_loop(going_on, halve, start)
  return jnp.where(spare_B, high_B, all_B)
