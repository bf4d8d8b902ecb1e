"""An instruction weighs the other form of an edit's prompt."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors import conditioner, metalearned, reach
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.metalearned import SAID, EditorConfig
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.errors import UserError
from instructedit_jax.tasks.instructions import Instruction
from tests import tiny

TOLD = Instruction("zsre", "Word for word.")
REQUESTS = (
  Request("the cat is", "a b", TOLD, "a dog and?"),
  Request("the cat is", "a b", None, "a dog and?"),
  Request("the", "c", TOLD),
)


@pytest.fixture(scope="module")
def model():
  return tiny.model()


def _editor(model, asked=0.0, **changes):
  """Of one round, so that its edit's rows are those of the requests."""
  settings = {
    "both_forms": True,
    "rounds": 1,
    "insist": 0,
    "enough": 0.0,
    "rate": tiny.STRONG,
  }
  config = EditorConfig(metalearned.REACH, **(settings | changes))
  params, statistics = reach.init(jax.random.key(0), config, model.config)
  told = params["conditioner"]
  told["reach"] = told["reach"] + asked
  return TrainedEditor(
    config, params, statistics, model.fingerprint, model.config.suffix
  )


def _inputs(model, editor):
  return editor.inputs(model, list(REQUESTS), PrefixCache(model))


def test_untrained_it_is_instructedit(model):
  ours = _editor(model)
  config = dataclasses.replace(ours.config, method="instructedit")
  theirs = dataclasses.replace(ours, config=config)
  for mine, plain in zip(
    jax.tree.leaves(ours.propose_each(model, REQUESTS)),
    jax.tree.leaves(theirs.propose_each(model, REQUESTS)),
    strict=True,
  ):
    np.testing.assert_allclose(mine, plain, rtol=1e-6)


def test_the_other_form_is_weighed_where_something_is_said(model):
  plain = _editor(model).propose_each(model, REQUESTS)
  editor = _editor(model, asked=0.7)
  edit = editor.propose_each(model, REQUESTS)
  rows, condition = _inputs(model, editor)
  code, _ = conditioner.read(
    editor.params["conditioner"],
    editor.statistics[SAID]["pooled"],
    condition.instruction,
    condition.given,
  )
  logit = 0.7 * np.asarray(code, np.float64).sum(-1)
  expected = 3 / (1 + np.exp(-logit - np.log(2))) - 1
  assert abs(expected[0] - 1) > 0.1
  # As many tokens of the prompt's answer as of its other form's, the third
  # one's by rule; then padding.
  of_rows = [
    [1, 1, expected[0], expected[0]],
    [1, 1, 1, 1],
    [1, expected[2], 0, 0],
  ]
  assert rows.mask[:3].sum(-1).tolist() == [4, 4, 2]
  for name in edit.v:
    np.testing.assert_array_equal(edit.u[name], plain.u[name])
    np.testing.assert_allclose(
      edit.v[name][:, :4],
      plain.v[name][:, :4] * np.asarray(of_rows)[..., None],
      rtol=1e-4,
      atol=1e-7,
    )


def test_further_rounds_are_weighed_too(model):
  """Where nothing counts of the other form, no round has rows of it."""
  editor = _editor(model, rounds=2)
  everything = -jnp.log(4.0)  # 0 is a third of the way from -1 to 2
  told = editor.params["conditioner"]
  one = _inputs(model, editor)[1]
  code, _ = conditioner.read(
    told, editor.statistics[SAID]["pooled"], one.instruction, one.given
  )
  total = code[0].sum()
  told["reach"] = told["reach"] + everything / total
  edit = editor.propose_each(model, REQUESTS[:1])
  for name in edit.v:
    size = np.abs(edit.v[name][0]).max(-1)
    half = len(size) // 2
    for of_round in (size[:half], size[half:]):
      assert of_round[:2].min() > 1e-4
      np.testing.assert_allclose(of_round[2:], 0, atol=1e-6)


def test_an_answer_that_is_not_meant_is_not_insisted_on(model):
  seen = []
  for asked in (0.0, 1.0, -1.0):
    editor = _editor(model, asked=asked)
    rows, condition = _inputs(model, editor)
    told = (editor.params, editor.statistics)
    mean = np.asarray(reach.weights(*told, condition)).mean(-1)
    # The second is told nothing.
    counted = [4 if mean[0] > 0.5 else 2, 4, 2 if mean[2] > 0.5 else 1]
    meant = reach.meant(*told, rows, condition)
    assert meant.mask[:3].sum(-1).tolist() == counted
    assert meant.mask[:2, :2].all()  # the prompt's own
    seen.append(counted)
  assert seen[0] == [4, 4, 2] != min(seen)  # one sign asks for less


def test_weights_have_their_bounds():
  asked = jnp.asarray([-40.0, -jnp.log(4.0), 0.0, 40.0])
  np.testing.assert_allclose(reach.weight(asked), [-1, 0, 1, 2], atol=1e-6)


def test_its_weights_learn(model):
  editor = _editor(model)
  rows, condition = _inputs(model, editor)

  def size(params):
    decoder = model.decoder()
    seen, _ = reach.look(decoder, rows, editor.config)
    edit = reach.propose(
      params, editor.statistics, editor.config, decoder, rows, seen, condition
    )
    return sum(jnp.square(v).sum() for v in edit.v.values())

  gradient = jax.jit(jax.grad(size))(editor.params)
  assert np.abs(gradient["conditioner"]["reach"]).max() > 0


def test_rows_of_no_known_form_are_refused(model):
  with pytest.raises(UserError, match=r"editor\.rows: 'all'.*'answer'"):
    _editor(model, rows="all")
