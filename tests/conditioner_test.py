"""What an editor can see of an instruction."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editing import statistics as stats
from instructedit_jax.editors import conditioner
from instructedit_jax.editors.conditioner import ConditionerConfig
from instructedit_jax.editors.metalearned import SAID
from instructedit_jax.editors.trained import load_editor
from instructedit_jax.errors import UserError
from tests import tiny

WIDTH = 16


def _tokens(rng, count=20):
  """Hidden states as language models have them: one coordinate is huge."""
  hidden = rng.normal(size=(count, WIDTH)).astype(np.float32)
  hidden[:, 3] += 12  # nine tenths of all there is
  hidden[0] *= 1e4
  return hidden


def test_size_is_not_read():
  """Neither the first token's nor that of any other."""
  hidden = _tokens(np.random.default_rng(0))
  louder = hidden.copy()
  louder[0] *= -7
  louder[5] *= 100
  np.testing.assert_allclose(
    conditioner.pooled(louder), conditioner.pooled(hidden), rtol=1e-5
  )
  assert conditioner.pooled(hidden).shape == (conditioner.size(WIDTH),)
  assert np.isfinite(conditioner.pooled(hidden[:1])).all()  # one token alone


def test_the_end_counts_by_itself():
  rng = np.random.default_rng(1)
  hidden = _tokens(rng, 60)
  changed = hidden.copy()
  changed[10] = rng.normal(size=WIDTH)
  first, second = conditioner.pooled(hidden), conditioner.pooled(changed)
  assert (first[:WIDTH] != second[:WIDTH]).any()
  np.testing.assert_array_equal(first[WIDTH:], second[WIDTH:])


def test_some_tokens_are_not_heard():
  hidden = np.arange(40.0).reshape(20, 2)
  few = [conditioner.heard(hidden, 0.6, seed) for seed in range(200)]
  assert 6 < np.mean([len(each) for each in few]) < 11
  for each in few:
    np.testing.assert_array_equal(each[0], hidden[0])
    assert (np.diff(each[:, 0]) > 0).all()  # in order
  np.testing.assert_array_equal(conditioner.heard(hidden, 0.6, 7), few[7])
  assert len({len(each) for each in few}) > 5


def test_something_is_always_heard():
  hidden = np.arange(8.0).reshape(4, 2)
  for seed in range(50):
    assert len(conditioner.heard(hidden, 1.0, seed)) == 2
  for whole in (hidden, hidden[:1]):
    np.testing.assert_array_equal(conditioner.heard(whole, 0.0, 3), whole)
  np.testing.assert_array_equal(
    conditioner.heard(hidden[:1], 0.9, 3), hidden[:1]
  )


def _params():
  params = conditioner.init(
    jax.random.key(0), WIDTH, 2, ConditionerConfig(code=8)
  )
  return params | {"rates": jnp.ones((8, 2)) / 8}


def _change(said):
  """How much the step sizes of different instructions differ."""
  given = np.ones(len(said), bool)
  moments = stats.empty(conditioner.size(WIDTH))
  moments = stats.fold(moments, said, given)
  return np.log(conditioner.read(_params(), moments, said, given)[1])


def test_instructions_are_told_apart():
  """A huge coordinate that all have in common hides nothing."""
  rng = np.random.default_rng(2)
  said = np.stack([conditioner.pooled(_tokens(rng)) for _ in range(32)])
  spread = np.std(said, axis=0)
  assert np.median(spread) < 0.03 * np.abs(said).max()
  assert _change(said).std() > 0.1


def test_one_instruction_alone_is_no_noise():
  """Nothing varies: nothing may be blown up to look as if it did."""
  said = np.repeat(
    conditioner.pooled(_tokens(np.random.default_rng(3)))[None], 32, 0
  )
  said += 1e-6 * np.random.default_rng(4).normal(size=said.shape)
  assert _change(said.astype(np.float32)).std() < 1e-3


def test_without_an_instruction_nothing_is_read():
  said = np.random.default_rng(5).normal(size=(2, 2 * WIDTH))
  moments = stats.fold(stats.empty(2 * WIDTH), said, np.ones(2, bool))
  given = np.array([False, True])
  code, change = conditioner.read(_params(), moments, said, given)
  np.testing.assert_array_equal(change[0], 1)
  np.testing.assert_array_equal(code[0], 0)
  assert np.any(code[1])


def test_an_editor_from_before_is_told(tmp_path):
  """One that knows no instructions' statistics cannot be conditioned."""
  editor = tiny.editor(tiny.model(), "instructedit")
  statistics = {k: v for k, v in editor.statistics.items() if k != SAID}
  dataclasses.replace(editor, statistics=statistics).save(tmp_path)
  with pytest.raises(UserError, match="not an editor of this version"):
    load_editor(tmp_path)
