"""UltraEdit: the closed form against numpy, and that it edits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editing import statistics as stats
from instructedit_jax.editing.factors import Factors
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.sequences import score
from instructedit_jax.editors import metalearned, ultraedit
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.training_free import Common, read_rows
from instructedit_jax.editors.ultraedit import UltraEdit, UltraEditConfig, solve
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation.predictions import predict
from instructedit_jax.tasks.instructions import Instruction
from tests import tiny

REQUESTS = [
  Request("S1 is", "a"),
  Request("Where is S22?", "b c d"),
  Request("What of it:", "e f"),
]


@functools.cache
def make():
  return tiny.model()


@functools.cache
def editor(rate=1e-3) -> UltraEdit:
  return UltraEdit(UltraEditConfig(rate=rate, calibration=2))


def by_hand(seen_x, seen_d, x, d, rate) -> np.ndarray:
  """The published form, in the width of the inputs, in double precision."""
  x, d = np.float64(x), np.float64(d)
  seen_x, seen_d = np.float64(seen_x), np.float64(seen_d)

  def whiten(rows, seen):
    return (rows - seen.mean(0)) / (seen.std(0, ddof=1) + 1e-7)

  shift = np.square(whiten(x, seen_x)).sum(-1, keepdims=True)
  shift = -rate * shift * whiten(d, seen_d)
  return np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ shift)


def test_the_closed_form_is_that_of_numpy():
  rng = np.random.default_rng(0)
  x, d = rng.normal(size=(5, 7)), rng.normal(size=(5, 4))
  before_x, before_d = rng.normal(size=(20, 7)), rng.normal(size=(20, 4))
  mask = np.asarray([True, True, False, True, True])
  known = {
    "2.up": tuple(
      stats.fold(
        stats.empty(rows.shape[1]), jnp.asarray(rows), np.ones(20, bool)
      )
      for rows in (before_x, before_d)
    )
  }
  factors = Factors(
    *({"2.up": jnp.asarray(v)} for v in (x, d)), {"2.up": jnp.asarray(mask)}
  )
  edit = solve(known, 0.1, factors)
  x, d = x[mask], d[mask]
  wanted = by_hand(np.r_[before_x, x], np.r_[before_d, d], x, d, 0.1)
  np.testing.assert_allclose(edit.dense()["2.up"], wanted, rtol=1e-4, atol=1e-6)
  assert not edit.u["2.up"][2].any()
  assert not edit.v["2.up"][2].any()


def test_several_requests_are_solved_together():
  model = make()
  alone = UltraEdit(UltraEditConfig(rate=1e-3, calibration=0))
  edit = alone.propose(model, REQUESTS)
  _, rows = read_rows(model, REQUESTS, Common(), None)
  factors, _ = jax.jit(
    lambda: metalearned.edit_factors(model.decoder(), rows)
  )()
  for name in model.config.editable:
    mask = np.asarray(factors.mask[name])
    x, d = (
      np.asarray(factors.x[name])[mask],
      np.asarray(factors.delta[name])[mask],
    )
    wanted = by_hand(x, d, x, d, 1e-3)
    found = edit.dense()[name]
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())
  with pytest.raises(UserError, match="calibration"):
    alone.propose_each(model, REQUESTS)
  with pytest.raises(UserError, match="calibration"):
    alone.propose(model, REQUESTS[0])


def test_an_edit_takes_and_does_not_depend_on_its_neighbours():
  model = make()
  texts = [
    [score(model.text, r.prompt, r.target, context=200)] for r in REQUESTS
  ]
  cache = PrefixCache(model)

  def log_p(edit):
    return [r[0].log_after.mean() for r in predict(model, cache, texts, edit)]

  base = log_p(None)
  weak, strong = (editor(r).propose_each(model, REQUESTS) for r in (1e-3, 0.1))
  for before, a, b in zip(base, log_p(weak), log_p(strong), strict=True):
    assert before < a < b
  for row in predict(model, cache, texts, strong):
    assert row[0].after[0] == row[0].labels[0] != row[0].before[0]
  single = editor().propose_each(model, REQUESTS[1:2])
  for name, value in single.dense().items():
    both = weak[1].dense()[name]
    np.testing.assert_allclose(
      value[0], both, atol=1e-3 * float(np.abs(both).max())
    )
  none = editor(0.0).propose_each(model, REQUESTS)
  assert not any(value.any() for value in none.v.values())


def test_one_request_alone_or_as_a_list_is_one_edit():
  model = make()
  one = editor().propose(model, REQUESTS[1]).dense()
  each = editor().propose_each(model, REQUESTS[1])[0].dense()
  for name in one:
    scale = float(np.abs(each[name]).max())
    np.testing.assert_allclose(one[name], each[name], atol=1e-3 * scale)


def test_calibration_is_of_all_rows_in_any_batches(monkeypatch):
  model, config = make(), UltraEditConfig()
  whole = ultraedit.calibrate(model, REQUESTS, config)
  monkeypatch.setattr(ultraedit, "_BATCH", 1)
  parts = ultraedit.calibrate(model, REQUESTS, config)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
  (count,) = {float(of_x.count) for of_x, _ in whole.values()}
  assert count == sum(len(r.target.split()) for r in REQUESTS)


def test_the_instruction_can_be_put_in_front():
  model = make()
  instruction = Instruction("counterfact", "Say a.")
  told = [dataclasses.replace(r, instruction=instruction) for r in REQUESTS]
  plain = editor().propose_each(model, told)
  config = dataclasses.replace(editor().config, view="instructed")
  given = dataclasses.replace(editor(), config=config).propose_each(model, told)
  same = editor().propose_each(model, REQUESTS)
  for name, value in plain.v.items():
    np.testing.assert_array_equal(value, same.v[name])
    assert np.abs(value - given.v[name]).max() > 1e-6
