"""Fine-tuning: what it minimises, how it descends, and that it edits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instructedit_jax.editing.archive import load_edit, save_edit
from instructedit_jax.editing.dense import DenseEdit
from instructedit_jax.editors import fine_tuning
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.descent import descend
from instructedit_jax.editors.fine_tuning import FineTuning, FineTuningConfig
from instructedit_jax.editors.training_free import Common, read_rows
from instructedit_jax.errors import UserError
from instructedit_jax.models.decoder import Sequence
from tests import tiny

REQUESTS = [
  Request("S1 is", "a"),
  Request("Where is S22?", "b c d"),
  Request("What of it:", "e f"),
]
FAMILIES = pytest.mark.parametrize("family", ["tiny-gpt2", "tiny-llama"])
OBJECTIVES = pytest.mark.parametrize("objective", ["target", "prompt_last"])


@functools.cache
def make(family="tiny-llama"):
  return tiny.model(family)


def editor(**changes) -> FineTuning:
  """Strong enough for random weights."""
  return FineTuning(
    FineTuningConfig(**{"rate": 0.05, "steps": 60, "bound": np.inf} | changes)
  )


@functools.partial(jax.jit, static_argnums=0)
def _logits(graph, params, ids, segments):
  sequence = Sequence(jnp.arange(ids.shape[1])[None], segments)
  return nnx.merge(graph, params)(ids, sequence)


def logits(model, tokens) -> np.ndarray:
  """Of the whole model, without prefix, suffix, packing or tap."""
  ids = np.zeros((1, 24), np.int32)
  ids[0, : len(tokens)] = tokens
  segments = np.int32(np.arange(24) < len(tokens))[None]
  found = _logits(model.graph, model.params, ids, segments)
  return np.asarray(found[0, : len(tokens)], np.float64)


def log_softmax(x: np.ndarray) -> np.ndarray:
  return (
    x
    - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1))[..., None]
    - x.max(-1, keepdims=True)
  )


@FAMILIES
@OBJECTIVES
def test_the_loss_is_that_of_the_merged_model(family, objective):
  model = make(family)
  name = FineTuningConfig().named(model.config)
  shape = model.config.matrix_shape(name)
  update = 0.1 * jax.random.normal(jax.random.key(1), shape)
  _, rows = read_rows(model, REQUESTS, Common(), None)
  found = jax.jit(
    lambda: fine_tuning.losses(model.decoder(), rows, name, update, objective)
  )()
  merged = DenseEdit({name: update}).merge(model)
  for request, loss in zip(REQUESTS, found, strict=False):
    ids, start = model.text.encode_pair(request.prompt, request.target)
    if objective == "target":
      log_p = log_softmax(logits(merged, ids[:-1]))[start - 1 :]
      wanted = -np.mean([log_p[i, t] for i, t in enumerate(ids[start:])])
    else:
      # The prompt alone; every target token at its last position.
      log_p = log_softmax(logits(merged, ids[:start]))[-1]
      wanted = -np.mean(log_p[ids[start:]])
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
  assert not found[len(REQUESTS) :].any()


@OBJECTIVES
def test_the_gradient_is_that_of_finite_differences(objective):
  model = make()
  name = FineTuningConfig().named(model.config)
  _, rows = read_rows(model, REQUESTS, Common(), None)
  keys = jax.random.split(jax.random.key(2))
  shape = (rows.labels.shape[0], *model.config.matrix_shape(name))
  at, way = (0.1 * jax.random.normal(key, shape) for key in keys)

  @jax.jit
  def losses(step):
    moved = at + step * way
    return fine_tuning.losses(model.decoder(), rows, name, moved, objective)

  @jax.jit
  @jax.grad
  def total(value):
    return fine_tuning.losses(
      model.decoder(), rows, name, value, objective
    ).sum()

  numeric = (losses(0.02) - losses(-0.02)) / 0.04
  # Of the sum of all losses, request by request: each depends on its own.
  np.testing.assert_allclose(
    (total(at) * way).sum((1, 2)), numeric, rtol=0.01, atol=2e-3
  )


@pytest.mark.parametrize("shares", [(), (0.5,), (0.9, 0.5, 0.1)])
def test_descent_is_adam_stopped_problem_by_problem(shares):
  goal = np.asarray([[1.0, -2.0], [0.3, 0.1], [5.0, 5.0]])
  found, count = descend(
    # What is said of a problem that has ended must not matter.
    lambda v, goal, live: jnp.where(
      live, jnp.square(v - goal).sum(-1), jnp.nan
    ),
    jnp.zeros((3, 2)),
    jnp.asarray(goal),
    shares=shares,
    rate=0.1,
    steps=40,
    stop=0.05,
    bound=1.5,
  )
  for row in range(3):
    value, first, second, steps = np.zeros(2), np.zeros(2), np.zeros(2), 0
    for step in range(1, 41):
      if np.square(value - goal[row]).sum() < 0.05:
        break
      slope = 2 * (value - goal[row])
      first = 0.9 * first + 0.1 * slope
      second = 0.999 * second + 0.001 * slope**2
      scale = np.sqrt(second / (1 - 0.999**step)) + 1e-8
      value = value - 0.1 * first / (1 - 0.9**step) / scale
      value, steps = np.clip(value, -1.5, 1.5), step
    np.testing.assert_allclose(found[row], value, atol=1e-5)
    assert count[row] == steps
  assert count.tolist()[1] < 40


@FAMILIES
def test_edits_take_and_do_not_touch_each_other(family):
  model = make(family)
  edit = editor().propose_each(model, REQUESTS)
  assert edit.batched
  for got in tiny.after(model, REQUESTS, edit):
    np.testing.assert_array_equal(got.after, got.labels)
  alone = editor().propose_each(model, REQUESTS[1:2])
  name = FineTuningConfig().named(model.config)
  # Adam amplifies rounding; what it means is the same.
  gap = np.abs(alone.update[name][0] - edit.update[name][1])
  assert gap.max() < 0.02 * np.abs(alone.update[name]).max()


def test_updates_that_do_not_fit_together_are_fitted_in_turn(monkeypatch):
  model = make()
  together = editor(steps=3).propose_each(model, REQUESTS)
  name = FineTuningConfig().named(model.config)
  # Room for three of four rows.
  room = 3 * together.update[name][0].nbytes
  monkeypatch.setattr(fine_tuning, "_UPDATE_BYTES", room)
  fitted = []
  fit = fine_tuning._fit
  monkeypatch.setattr(
    fine_tuning, "_fit", lambda *a: fitted.append(len(a[-1].labels)) or fit(*a)
  )
  apart = editor(steps=3).propose_each(model, REQUESTS)
  assert fitted == [3, 1]
  np.testing.assert_allclose(
    apart.update[name], together.update[name], atol=1e-4
  )


def test_several_requests_are_one_fine_tuning():
  model = tiny.decided()
  edit = editor().propose(model, REQUESTS)
  assert not edit.batched
  for got in tiny.after(model, REQUESTS, edit):
    np.testing.assert_array_equal(got.after, got.labels)
    assert got.log_after.mean() > -0.1
  edited = edit.merge(model)
  for merged, got in zip(
    tiny.after(edited, REQUESTS, None),
    tiny.after(model, REQUESTS, edit),
    strict=True,
  ):
    np.testing.assert_allclose(merged.log_before, got.log_after, atol=1e-3)
  # Adam's first step is the sign of the mean gradient.
  step = editor(steps=1).propose(model, REQUESTS)
  ((name, value),) = step.update.items()
  _, rows = read_rows(model, REQUESTS, Common(), None)
  slope = jax.jit(
    jax.grad(lambda v: fine_tuning.losses(model.decoder(), rows, name, v).sum())
  )(jnp.zeros_like(value))
  clear = np.abs(slope) > 1e-5
  assert clear.mean() > 0.5
  np.testing.assert_allclose(
    value[clear], -0.05 * np.sign(slope)[clear], rtol=0.01
  )


def test_the_published_objective_asks_for_all_tokens_at_once():
  model = tiny.decided()
  request = Request("Where is S22?", "b c")
  edit = editor(objective="prompt_last", steps=200).propose(model, request)
  edited = edit.merge(model)
  ids, start = model.text.encode_pair(request.prompt, request.target)
  chances = np.exp(log_softmax(logits(edited, ids[:start]))[-1][ids[start:]])
  # The least possible loss shares the last position between the two.
  np.testing.assert_allclose(chances, 0.5, atol=0.1)


def test_no_step_is_no_change():
  model = make()
  edit = editor(steps=0).propose_each(model, REQUESTS)
  assert not any(value.any() for value in edit.update.values())
  for got in tiny.after(model, REQUESTS, edit):
    np.testing.assert_array_equal(got.after, got.before)
    np.testing.assert_allclose(got.log_after, got.log_before, atol=1e-5)


def test_bounds():
  inside = editor(bound=0.01).propose_each(make(), REQUESTS)
  ((_, value),) = inside.update.items()
  np.testing.assert_allclose(np.abs(value).max(), 0.01, rtol=1e-6)
  assert FineTuningConfig().limit(make("tiny-gpt2").config) == 5e-4
  assert FineTuningConfig().limit(make().config) == np.inf


def test_edits_can_be_kept_scaled_and_undone(tmp_path):
  model = make()
  edit = editor(steps=3).propose_each(model, REQUESTS)
  save_edit(tmp_path / "e.npz", edit, model)
  again = load_edit(tmp_path / "e.npz", model)
  assert isinstance(again, DenseEdit)
  jax.tree.map(np.testing.assert_array_equal, again, edit)
  with pytest.raises(UserError, match="another model"):
    load_edit(tmp_path / "e.npz", make("tiny-gpt2"))
  with pytest.raises(UserError, match="independent edits"):
    edit.merge(model)
  whole = edit.combined()
  ((name, value),) = whole.dense().items()
  np.testing.assert_allclose(value, edit.update[name].sum(0), atol=1e-6)
  assert not (whole - whole).update[name].any()
  back = (-whole).merge(whole.merge(model))
  for a, b in zip(
    jax.tree.leaves(back.params), jax.tree.leaves(model.params), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"block": 0}, "suffix=4"),
    ({"block": 9}, "blocks 0 to 3"),
    ({"matrix": "out"}, "gate, up, down"),
    ({"objective": "x"}, "objective"),
    ({"view": "x"}, "view"),
    ({"steps": -1}, "steps"),
    ({"bound": -1.0}, "bound"),
    ({"rate": np.inf}, "overflow"),
  ],
)
def test_mistakes_are_told(changes, message):
  with pytest.raises(UserError, match=message):
    editor(**changes).propose_each(make(), REQUESTS)


def test_another_form_is_for_editors_trained_to_take_it():
  request = Request("S0 is", "a", other_form="What is S0?")
  with pytest.raises(UserError, match=r"'S0 is'.* leave other_form out"):
    editor().propose(make(), [request])


def test_no_request_is_an_error():
  with pytest.raises(UserError, match="no edit request"):
    editor().propose(make(), [])
