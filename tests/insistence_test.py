"""A further round where an answer is not said, and nowhere else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.sequences import score
from instructedit_jax.editors import ke
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.insistence import insisted, says_answers
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.errors import UserError
from instructedit_jax.models.decoder import Sequence
from tests import tiny

_REQUESTS = (
  Request("the cat is", "b"),
  Request("a dog and the", "a b"),
  Request("the", "c"),
  Request("b and", "the cat is a dog"),
)
# Some of these requests say their answers after one round of it, some do not.
_RATE = 1.0


def test_what_is_said_is_what_the_merged_model_finds_likeliest():
  model, rows, edit = _proposed()
  said = np.asarray(says_answers(model.decoder(), rows, edit))
  expected = []
  for number, request in enumerate(_REQUESTS):
    scored = score(
      model.text, request.prompt, request.target, context=model.config.context
    )
    # Scored places are the last ones of a sequence: each sees the label's left.
    tokens = jnp.asarray([scored.tokens])
    places = jnp.arange(tokens.size)[None]
    merged = edit[number].merge(model).decoder()
    logits = merged(tokens, Sequence(places, jnp.ones_like(places)))
    answer = logits[0, -len(scored.labels) :].argmax(-1)
    expected.append(answer.tolist() == list(scored.labels))
  assert list(said[: len(_REQUESTS)]) == expected
  assert 0 < sum(expected) < len(_REQUESTS)
  assert said[len(_REQUESTS) :].all()  # padding has nothing to say


def test_only_what_is_not_said_gets_another_round():
  model, rows, edit = _proposed()
  decoder = model.decoder()
  more = jax.tree.map(lambda leaf: leaf[:, :2] + 1.0, edit)
  said = np.asarray(says_answers(decoder, rows, edit))
  after = insisted(edit, decoder, rows, lambda _: more, 1)
  for name, v in after.v.items():
    np.testing.assert_array_equal(v[:, :-2], edit.v[name])
    np.testing.assert_array_equal(v[said, -2:], 0)
    np.testing.assert_array_equal(v[~said, -2:], more.v[name][~said])


def test_what_is_not_wanted_need_not_be_finite():
  model, rows, edit = _proposed()
  decoder = model.decoder()
  wild = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), edit)
  said = np.asarray(says_answers(decoder, rows, edit))
  after = insisted(edit, decoder, rows, lambda _: wild, 1)
  for leaf in jax.tree.leaves(after):
    assert np.isfinite(leaf[said]).all()


def test_each_round_asks_again():
  """A round that does its work is the last, whatever may come."""
  model, rows, edit = _proposed()
  decoder = model.decoder()
  strong = tiny.editor(model, rate=5 * _RATE).propose_each(model, _REQUESTS)
  strong = _padded(strong, len(rows.hidden))
  twice = insisted(edit.scale(0.0), decoder, rows, lambda _: strong, 2)
  said = np.asarray(says_answers(decoder, rows, strong))
  size = next(iter(strong.v.values())).shape[1]
  assert said[: len(_REQUESTS)].any()
  for v in twice.v.values():
    np.testing.assert_array_equal(v[said, -size:], 0)


def test_no_rounds_no_change():
  model, rows, edit = _proposed()
  assert insisted(edit, model.decoder(), rows, lambda e: e, 0) is edit


def test_a_trained_editor_insists():
  """On what one round leaves unsaid, and is alone in a batch or not."""
  model = tiny.model()
  once, insisting = _editor(model, insist=0), _editor(model, insist=4)
  before, after = (
    _share_said(model, editor.propose_each(model, _REQUESTS))
    for editor in (once, insisting)
  )
  assert after > before
  together = insisting.propose_each(model, _REQUESTS).dense()
  for number, request in enumerate(_REQUESTS):
    alone = insisting.propose_each(model, [request]).dense()
    for name, update in alone.items():
      # Another program for another size: rounding alone may differ.
      np.testing.assert_allclose(
        together[name][number], update[0], rtol=1e-3, atol=1e-6
      )


def test_of_a_gated_gradient_there_is_one_round():
  _, rows, edit = _proposed()
  config = EditorConfig(method="ke", insist=3)
  assert ke.insist({}, {}, config, None, rows, edit, None) is edit


def test_rounds_are_counted_from_0():
  with pytest.raises(UserError, match="insist=-1: must be at least 0"):
    EditorConfig(insist=-1)


def _editor(model, insist):
  editor = tiny.editor(model, rate=_RATE)
  config = dataclasses.replace(editor.config, insist=insist, enough=0.0)
  return dataclasses.replace(editor, config=config)


def _proposed():
  model = tiny.model()
  editor = _editor(model, insist=0)
  rows, _ = editor.inputs(model, _REQUESTS, PrefixCache(model))
  edit = editor.propose_each(model, _REQUESTS)
  return model, rows, _padded(edit, len(rows.hidden))


def _padded(edit, count):
  return jax.tree.map(
    lambda leaf: jnp.pad(leaf, [(0, count - len(leaf)), (0, 0), (0, 0)]), edit
  )


def _share_said(model, edit):
  rows, _ = _editor(model, 0).inputs(model, _REQUESTS, PrefixCache(model))
  edit = _padded(edit, len(rows.hidden))
  return says_answers(model.decoder(), rows, edit)[: len(_REQUESTS)].mean()
