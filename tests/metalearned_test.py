import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editors.metalearned import METHODS, EditorConfig
from instructedit_jax.editors.ridge import decorrelate, spd_inverse
from instructedit_jax.errors import UserError
from instructedit_jax.tasks.instructions import Instruction

_ROWS = jax.random.normal(jax.random.key(0), (2, 5, 8))


def apart(rows, strength):
  return decorrelate({"a": rows}, {"a": jnp.log(strength)})["a"]


@pytest.mark.parametrize("size", [5, 32, 33, 71, 140])
def test_inverse_and_its_gradient(size):
  rows = jax.random.normal(jax.random.key(0), (2, size, 8))
  a = jnp.einsum("brn,bsn->brs", rows, rows) + jnp.eye(size)[None]
  # float32 on matrices of condition about 30, and 150 of the largest.
  np.testing.assert_allclose(
    spd_inverse(a), np.linalg.inv(np.asarray(a)), rtol=1e-3, atol=1e-5
  )
  weight = jax.random.normal(jax.random.key(1), a.shape)
  ours = jax.grad(lambda a: (spd_inverse(a) * weight).sum())(a)
  inverse = np.linalg.inv(np.asarray(a))
  expected = -inverse @ np.asarray(weight) @ inverse
  np.testing.assert_allclose(ours, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("size", [40, 64, 160])
@pytest.mark.parametrize("strength", [1e2, 1e3, 1e5])
def test_inverse_of_rows_that_come_twice(size, strength):
  """As those of an answer behind two forms of its prompt."""
  rng = np.random.default_rng(0)
  once = rng.normal(size=(size // 2, 576))
  rows = np.concatenate([once, once + 0.05 * rng.normal(size=once.shape)])
  rows += 2 * rng.normal(size=(1, 576))  # what all of them have in common
  a = np.eye(size) + strength / 576 * rows @ rows.T
  exact = np.linalg.inv(a)
  # As far off as LAPACK's in the same precision, some times over.
  near = np.abs(np.linalg.inv(np.float32(a)) - exact).max()
  found = spd_inverse(jnp.asarray(a[None], jnp.float32))[0]
  np.testing.assert_allclose(found, exact, atol=30 * near)


def test_matrices_may_have_different_numbers_of_rows():
  keys = {"a": _ROWS, "b": _ROWS[:, :3], "c": 2 * _ROWS}
  strength = dict.fromkeys(keys, jnp.zeros(()))
  together = decorrelate(keys, strength)
  assert list(together) == list(keys)
  for name, rows in keys.items():
    np.testing.assert_allclose(
      together[name], apart(rows, jnp.ones(())), rtol=1e-4, atol=1e-6
    )


def test_no_ridge_changes_nothing():
  np.testing.assert_allclose(apart(_ROWS, jnp.zeros(())), _ROWS, rtol=1e-6)


def test_ridge_equals_its_closed_form():
  strength = 3.0
  x = np.asarray(_ROWS, np.float64)
  gram = np.einsum("brn,bsn->brs", x, x) * strength / x.shape[-1]
  expected = np.linalg.inv(np.eye(5) + gram) @ x
  np.testing.assert_allclose(
    apart(_ROWS, jnp.asarray(strength)), expected, rtol=1e-4, atol=1e-5
  )


def test_strong_ridge_makes_each_row_answer_for_itself_alone():
  strength = 1e4
  keys = apart(_ROWS, jnp.asarray(strength)) * strength / _ROWS.shape[-1]
  answers = jnp.einsum("brn,bsn->brs", _ROWS, keys)
  eye = jnp.broadcast_to(jnp.eye(5), answers.shape)
  np.testing.assert_allclose(answers, eye, atol=0.02)


def test_masked_rows_stay_zero_and_do_not_matter():
  masked = _ROWS.at[:, 3:].set(0)
  keys = apart(masked, jnp.ones(()))
  np.testing.assert_array_equal(keys[:, 3:], 0)
  np.testing.assert_allclose(
    keys[:, :3], apart(_ROWS[:, :3], jnp.ones(())), rtol=1e-4, atol=1e-6
  )


def test_views_of_a_request():
  told = Instruction("zsre", "Answer it.")
  seen = {
    method: EditorConfig(method).views(told, "Who?") for method in METHODS
  }
  assert seen["mend"] == seen["instructedit"] == ["Who?"]
  assert seen["instructedit_text"] == [told.apply("Who?")]
  assert seen["instructedit_views"] == ["Who?", told.apply("Who?")]
  for method in METHODS:
    assert EditorConfig(method).views(None, "Who?") == ["Who?"]


def test_views_in_both_forms():
  told, asked = Instruction("zsre", "Answer it."), "What is the R of X?"
  forms = ["The R of X is", asked]
  seen = {
    method: EditorConfig(method, both_forms=True).views(told, forms[0])
    for method in METHODS
  }
  assert seen["mend"] == seen["instructedit"] == forms
  assert seen["instructedit_text"] == [told.apply(form) for form in forms]
  assert seen["instructedit_views"] == [
    *(forms[0], told.apply(forms[0])),
    *(asked, told.apply(asked)),
  ]
  for method in METHODS:
    config = EditorConfig(method, both_forms=True)
    assert config.views(None, forms[0]) == forms
    assert config.views(None, forms[0], "Own?") == [forms[0], "Own?"]


def test_an_editor_of_one_form_takes_no_other():
  with pytest.raises(
    UserError, match=r"'The R of X is'.* leave other_form out"
  ):
    EditorConfig("mend").views(None, "The R of X is", "What is the R of X?")


@pytest.mark.parametrize(
  ("field", "value"), [("method", "magic"), ("rows", "some"), ("rounds", 0)]
)
def test_a_wrong_value_is_named(field, value):
  with pytest.raises(UserError, match=rf"editor\.{field}"):
    EditorConfig(**{field: value})
