import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editors.answers import answers_of
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.editors.restraint import least_strength, restrained
from instructedit_jax.errors import UserError
from tests import tiny

_REQUESTS = (
  Request("the cat is", "b"),
  Request("a dog and the", "a b"),
  Request("the", "c"),
)


def _strengths(rates, enough):
  """Where exp(-rate * strength) is the loss."""
  rates = jnp.asarray(rates)
  return least_strength(
    lambda strength_B: jnp.exp(-rates * strength_B), jnp.exp(-rates), enough
  )


def test_the_least_sixteenth_is_found():
  rates = [4.0, 5.0, 8.0, 20.0, 100.0]
  found = _strengths(rates, 0.02)
  # exp(-rate * strength) <= 0.02, rounded up to a sixteenth.
  exact = np.log(50) / np.array(rates)
  np.testing.assert_array_equal(found, np.minimum(np.ceil(exact * 16), 16) / 16)


def test_an_edit_with_nothing_to_spare_keeps_its_strength():
  np.testing.assert_array_equal(
    _strengths([0.0, 1.0, -3.0, 50.0], 0.02), [1, 1, 1, 0.125]
  )


def test_what_was_chosen_was_seen_to_do():
  """Also where the loss rises in between."""

  def loss(strength_B):
    return jnp.where((strength_B > 0.3) & (strength_B < 0.8), 1.0, 0.0)

  found = least_strength(loss, loss(jnp.ones(2)), 0.5)
  assert (loss(found) <= 0.5).all()


def test_a_strong_edit_is_scaled_down_to_a_loss_that_will_do():
  model, rows, edit = _proposed(rate=3.0)
  decoder = model.decoder()
  answers = answers_of(edit, decoder, rows)
  whole = np.asarray(answers.loss)
  real = np.arange(len(whole)) < len(_REQUESTS)
  enough = float(np.sort(whole[real])[1:].mean())  # two edits have to spare
  before = _norms(edit)
  after = restrained(edit, answers, decoder, rows, enough)
  losses = np.asarray(answers_of(after, decoder, rows).loss)
  spare = real & (whole < enough)
  assert spare.sum() == 2
  assert (losses[spare] <= enough).all()
  assert (_norms(after)[spare] < before[spare]).all()
  kept = real & ~spare
  np.testing.assert_array_equal(_norms(after)[kept], before[kept])


def test_rows_of_padding_are_left_alone():
  """Else one of them would have every batch searched."""
  model, rows, edit = _proposed(rate=3.0)
  filled = jax.tree.map(lambda leaf: leaf.at[len(_REQUESTS) :].set(1), edit)
  answers = answers_of(filled, model.decoder(), rows)
  least = restrained(filled, answers, model.decoder(), rows, 1e9)
  strengths = np.array(_norms(least) / _norms(filled))
  np.testing.assert_allclose(strengths, [1 / 16] * 3 + [1], rtol=1e-5)


def test_nothing_is_enough_for_0():
  model, rows, edit = _proposed(rate=5.0)
  assert restrained(edit, None, model.decoder(), rows, 0.0) is edit


def test_a_neighbour_in_the_batch_changes_nothing():
  editor = _editor(tiny.model(), rate=3.0, enough=5.1)
  together = editor.propose_each(tiny.model(), _REQUESTS)
  for number, request in enumerate(_REQUESTS):
    alone = editor.propose_each(tiny.model(), [request])
    for name, v in alone.v.items():
      rows = v.shape[1]
      # Another program for another size: rounding alone may differ.
      np.testing.assert_allclose(
        together.v[name][number, :rows], v[0], rtol=1e-3, atol=1e-6
      )


def test_a_trained_editor_restrains_itself():
  model = tiny.model()
  whole = _editor(model, rate=5.0, enough=0.0).propose_each(model, _REQUESTS)
  # Any loss will do: the least strength there is.
  least = _editor(model, rate=5.0, enough=1e9).propose_each(model, _REQUESTS)
  np.testing.assert_allclose(_norms(least), _norms(whole) / 16, rtol=1e-5)


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_what_is_enough_must_be_a_loss(value):
  with pytest.raises(UserError, match="enough"):
    EditorConfig(enough=value)


def _editor(model, rate, enough):
  return tiny.editor(model, rate=rate).using(enough=enough)


def _proposed(rate):
  model = tiny.model()
  return model, *tiny.proposed(_editor(model, rate, 0.0), model, _REQUESTS)


def _norms(edit):
  square = sum((update**2).sum((1, 2)) for update in edit.dense().values())
  return np.sqrt(np.asarray(square))
