"""A further round where an answer is not said, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editors import trainable
from instructedit_jax.editors.answers import answers_of
from instructedit_jax.editors.insistence import insisted
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.errors import UserError
from tests import tiny

# Some of these requests say their answers after one round of it, some do not.
_RATE = 1.0


def test_only_what_is_not_said_gets_another_round():
  model, rows, edit = _proposed()
  more = jax.tree.map(lambda leaf: leaf[:, :2] + 1.0, edit)
  said = _answers(model, rows, edit).said
  after, _ = _insisted(model, rows, edit, more)
  for name, v in after.v.items():
    np.testing.assert_array_equal(v[:, :-2], edit.v[name])
    np.testing.assert_array_equal(v[said, -2:], 0)
    np.testing.assert_array_equal(v[~said, -2:], more.v[name][~said])


def test_what_is_not_wanted_need_not_be_finite():
  model, rows, edit = _proposed()
  wild = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), edit)
  said = _answers(model, rows, edit).said
  after, _ = _insisted(model, rows, edit, wild)
  for leaf in jax.tree.leaves(after):
    assert np.isfinite(leaf[said]).all()


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_the_answers_are_those_of_the_edits_returned(rounds):
  model, rows, edit = _proposed()
  found, answers = _insisted(model, rows, edit, edit, rounds)
  expected = _answers(model, rows, found)
  np.testing.assert_array_equal(answers.said, expected.said)
  np.testing.assert_allclose(answers.loss, expected.loss, rtol=1e-5, atol=1e-6)


def test_each_round_asks_again():
  """A round that does its work is the last, whatever may come."""
  model, rows, edit = _proposed()
  _, strong = tiny.proposed(
    tiny.editor(model, rate=5 * _RATE), model, tiny.REQUESTS
  )
  twice, _ = _insisted(model, rows, edit.scale(0.0), strong, 2)
  said = _answers(model, rows, strong).said
  size = next(iter(strong.v.values())).shape[1]
  assert said[: len(tiny.REQUESTS)].any()
  for v in twice.v.values():
    np.testing.assert_array_equal(v[said, -size:], 0)


def test_no_rounds_no_change():
  model, rows, edit = _proposed()
  assert _insisted(model, rows, edit, edit, 0)[0] is edit


def test_a_trained_editor_insists():
  """On what one round leaves unsaid, and is alone in a batch or not."""
  model = tiny.model()
  once, insisting = _editor(model, insist=0), _editor(model, insist=4)
  before, after = (
    _share_said(model, editor.propose_each(model, tiny.REQUESTS))
    for editor in (once, insisting)
  )
  assert after > before
  together = insisting.propose_each(model, tiny.REQUESTS).dense()
  for number, request in enumerate(tiny.REQUESTS):
    alone = insisting.propose_each(model, [request]).dense()
    for name, update in alone.items():
      # Another program for another size: rounding alone may differ.
      np.testing.assert_allclose(
        together[name][number], update[0], rtol=1e-3, atol=1e-6
      )


def test_of_a_gated_gradient_there_is_one_round():
  assert trainable.of(EditorConfig(method="ke", insist=3)).further is None


def test_rounds_are_counted_from_0():
  with pytest.raises(UserError, match="insist=-1: must be at least 0"):
    EditorConfig(insist=-1)


def _editor(model, insist):
  return tiny.editor(model, rate=_RATE).using(insist=insist, enough=0.0)


def _proposed():
  model = tiny.model()
  return model, *tiny.proposed(_editor(model, insist=0), model, tiny.REQUESTS)


def _insisted(model, rows, edit, more, rounds=1):
  """The edits, with `more` where it is wanted."""
  answers = _answers(model, rows, edit)
  return insisted(edit, answers, model.decoder(), rows, lambda _: more, rounds)


def _answers(model, rows, edit):
  return jax.tree.map(np.asarray, answers_of(edit, model.decoder(), rows))


def _share_said(model, edit):
  rows, _ = tiny.proposed(_editor(model, 0), model, tiny.REQUESTS)
  edit = tiny.padded(edit, len(rows.hidden))
  return _answers(model, rows, edit).said[: len(tiny.REQUESTS)].mean()
