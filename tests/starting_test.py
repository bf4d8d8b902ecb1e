"""Training may start from an editor's numbers."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.trained import TrainedEditor, load_editor
from instructedit_jax.errors import UserError
from instructedit_jax.tasks.instructions import Instruction
from instructedit_jax.training import loop, starting
from instructedit_jax.training import step as step_lib
from tests import tiny_run


@pytest.fixture(scope="module")
def model():
  return tiny_run.model()


def _fresh(model, config):
  rule = step_lib.optimizer(config.optimizer, config.steps)
  return step_lib.init_state(
    jax.random.key(config.seed), config.editor, model.config, rule
  )


def _saved(folder, model, config):
  """An editor of other numbers than fresh ones."""
  state = _fresh(model, config)
  rng = np.random.default_rng(0)
  params, statistics = jax.tree.map(
    lambda x: np.float32(x + 0.1 * rng.random(x.shape)),
    (state.params, state.statistics),
  )
  editor = TrainedEditor(
    config.editor, params, statistics, model.fingerprint, config.suffix
  )
  editor.save(folder)
  return editor


def _same(one, other):
  for mine, theirs in zip(
    jax.tree.leaves(one), jax.tree.leaves(other), strict=True
  ):
    np.testing.assert_array_equal(mine, theirs)


def test_nothing_to_start_from_is_a_fresh_start(model):
  config = tiny_run.config()
  fresh = _fresh(model, config)
  assert starting.started(fresh, config, model) is fresh


def test_instructedit_from_mend_is_that_mend(model, tmp_path):
  mend = _saved(tmp_path, model, tiny_run.config("mend"))
  config = tiny_run.config(start_from=str(tmp_path))
  fresh = _fresh(model, config)
  state = starting.started(fresh, config, model)
  _same(state.params["conditioner"], fresh.params["conditioner"])
  _same({k: state.params[k] for k in mend.params}, mend.params)
  _same({k: state.statistics[k] for k in mend.statistics}, mend.statistics)
  _same(state.optimizer, fresh.optimizer)
  assert int(state.step) == 0
  editor = TrainedEditor(
    config.editor,
    state.params,
    state.statistics,
    model.fingerprint,
    config.suffix,
  )
  told = Request("the cat is", "a b", Instruction("zsre", "Any."))
  cache = PrefixCache(model)
  for ours, theirs in zip(
    jax.tree.leaves(editor.propose(model, [told], cache)),
    jax.tree.leaves(mend.propose(model, [told], cache)),
    strict=True,
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_same_method_is_taken_whole(model, tmp_path):
  config = tiny_run.config()
  editor = _saved(tmp_path, model, config)
  config = dataclasses.replace(config, start_from=str(tmp_path))
  state = starting.started(_fresh(model, config), config, model)
  _same(state.params, editor.params)
  _same(state.statistics, editor.statistics)


def test_what_does_not_fit_is_refused(model, tmp_path):
  config = tiny_run.config()
  _saved(tmp_path, model, config)

  def start(config):
    config = dataclasses.replace(config, start_from=str(tmp_path))
    return starting.started(_fresh(model, config), config, model)

  with pytest.raises(UserError, match=r"has .*conditioner.*has not"):
    start(tiny_run.config("mend"))

  def changed(**values):
    editor = dataclasses.replace(config.editor, **values)
    return dataclasses.replace(config, editor=editor)

  with pytest.raises(UserError, match=r"editor\.rate=0\.0012, this run 0\.5"):
    start(changed(rate=0.5))
  code = dataclasses.replace(config.editor.conditioner, code=3)
  with pytest.raises(UserError, match=r"conditioner.*shape .*this run's"):
    start(changed(conditioner=code))
  wrong = dataclasses.replace(config, start_from=str(tmp_path / "none"))
  with pytest.raises(UserError, match="none"):
    starting.started(_fresh(model, wrong), wrong, model)
  other = dataclasses.replace(model, fingerprint="f" * 64)
  config = dataclasses.replace(config, start_from=str(tmp_path))
  with pytest.raises(UserError, match="another model"):
    starting.started(_fresh(model, config), config, other)


@pytest.mark.slow
def test_a_run_starts_from_it_and_goes_on_without_it(model, tmp_path):
  config = tiny_run.config(steps=1)
  editor = _saved(tmp_path / "start", model, config)
  config = dataclasses.replace(config, start_from=str(tmp_path / "start"))
  loop.train(config, tmp_path / "run", model)
  # The first step of a warm-up is of size zero.
  first = load_editor(tmp_path / "run")
  _same(first.params, editor.params)
  shutil.rmtree(tmp_path / "start")
  loop.train(dataclasses.replace(config, steps=2), tmp_path / "run", model)
  assert load_editor(tmp_path / "run").details["config"]["steps"] == 2
