"""What an instruction does to the hypernetwork, form by form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editing import statistics as stats
from instructedit_jax.editing.factors import Factors
from instructedit_jax.editors import (
  conditioner,
  experts,
  hypernetwork,
  modulation,
  row_weights,
)
from instructedit_jax.editors.conditioner import ConditionerConfig

WIDTH = 8
SHAPES = {"a": (6, 4), "b": (6, 4), "c": (4, 6)}
NETWORK = hypernetwork.HypernetworkConfig(
  rank=8, v_scale="width", last_clamp=False
)
FORMS = pytest.mark.parametrize("form", [modulation, row_weights, experts])


def _normal(rng, *shape):
  return rng.normal(size=shape).astype(np.float32)


def _case(form, moved):
  """Parameters, a network, factors of three requests, and what they are told.

  The first request is told nothing, the others two different things.
  """
  rng = np.random.default_rng(0)
  network, _ = hypernetwork.init(jax.random.key(1), SHAPES, NETWORK)
  config = ConditionerConfig(code=5)
  key = jax.random.key(0)
  params = conditioner.init(key, WIDTH, len(SHAPES), config) | form.init(
    key, SHAPES, NETWORK, config
  )
  if moved:
    params, network = jax.tree.map(
      lambda x: x + 0.3 * _normal(rng, *x.shape), (params, network)
    )
  mask = np.arange(4)[None] < np.array([[4], [3], [4]])
  factors = Factors(
    x={
      k: _normal(rng, 3, 4, n) * mask[..., None] for k, (n, _) in SHAPES.items()
    },
    delta={
      k: _normal(rng, 3, 4, m) * mask[..., None] for k, (_, m) in SHAPES.items()
    },
    mask=dict.fromkeys(SHAPES, mask),
  )
  said = _normal(rng, 3, conditioner.size(WIDTH))
  moments = stats.fold(
    stats.empty(conditioner.size(WIDTH)), said, np.ones(3, bool)
  )
  told = (moments, said, np.array([0, 1, 1], bool))
  return params, network, factors, told


def _apply(form, params, network, factors, told):
  """The pseudo-factors and the change of step sizes."""
  code, rates = conditioner.read(params, *told)
  pseudo = form.apply(params, network, SHAPES, NETWORK, factors, code, told[-1])
  return pseudo, rates


@FORMS
def test_untrained_it_does_nothing(form):
  """Then every edit is MEND's, whatever is said."""
  params, network, factors, told = _case(form, moved=False)
  pseudo, rates = _apply(form, params, network, factors, told)
  plain = hypernetwork.transform(network, SHAPES, NETWORK, factors)
  np.testing.assert_array_equal(rates, 1)
  for ours, theirs in zip(
    jax.tree.leaves(pseudo), jax.tree.leaves(plain), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@FORMS
def test_trained_it_does_nothing_to_who_is_told_nothing(form):
  params, network, factors, told = _case(form, moved=True)
  pseudo, rates = _apply(form, params, network, factors, told)
  plain = hypernetwork.transform(network, SHAPES, NETWORK, factors)
  np.testing.assert_array_equal(rates[0], 1)
  for name in SHAPES:
    update = jnp.einsum("brn,brm->bnm", pseudo.x[name], pseudo.delta[name])
    mend = jnp.einsum("brn,brm->bnm", plain.x[name], plain.delta[name])
    np.testing.assert_allclose(update[0], mend[0], rtol=1e-5, atol=1e-5)
    assert all(np.abs(update - mend)[i].max() > 1e-2 for i in (1, 2))
    # A row that is padding is no row of the edit.
    np.testing.assert_array_equal(pseudo.x[name][1, 3], 0)
    np.testing.assert_array_equal(pseudo.delta[name][1, 3], 0)


@FORMS
def test_everything_of_it_learns(form):
  """After one step: some of it is zero at first and stands before the rest."""
  params, network, factors, told = _case(form, moved=True)

  def loss(params):
    pseudo, rates = _apply(form, params, network, factors, told)
    return sum(
      jnp.sum(jnp.sin(leaf)) for leaf in (*pseudo.x.values(), rates)
    ) + sum(jnp.sum(jnp.cos(leaf)) for leaf in pseudo.delta.values())

  gradient = jax.grad(loss)(params)
  for at, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.any(leaf), jax.tree_util.keystr(at)


def test_row_weights_by_hand():
  params, network, factors, told = _case(row_weights, moved=True)
  pseudo, _ = _apply(row_weights, params, network, factors, told)
  plain = hypernetwork.transform(network, SHAPES, NETWORK, factors)
  code = np.asarray(conditioner.read(params, *told)[0], np.float64)
  for name in SHAPES:
    rows = np.concatenate([factors.x[name], factors.delta[name]], -1)
    feature = np.tanh(rows.astype(np.float64) @ params["features"][name])
    for b in range(3):
      logit = feature[b] @ (code[b] @ np.asarray(params["asked"][name]))
      weight = 2 / (1 + np.exp(-logit))
      np.testing.assert_allclose(
        pseudo.delta[name][b],
        weight[:, None] * plain.delta[name][b],
        rtol=1e-4,
        atol=1e-5,
      )
    np.testing.assert_array_equal(pseudo.x[name], plain.x[name])


def test_experts_by_hand():
  """One call of the hypernetwork an expert, summed up by their shares."""
  params, network, factors, told = _case(experts, moved=True)
  pseudo, _ = _apply(experts, params, network, factors, told)
  code = np.asarray(conditioner.read(params, *told)[0], np.float64)
  logits = code @ np.asarray(params["shares"], np.float64)
  share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  share[0] = 0
  small = hypernetwork.HypernetworkConfig(
    rank=2, v_scale="width", last_clamp=False
  )
  expected = hypernetwork.transform(network, SHAPES, NETWORK, factors).delta[
    "c"
  ]
  for i, expert in enumerate(params["experts"]):
    assert expert["6x4"]["both"][0]["v"].shape == (10, 2)
    said = hypernetwork.transform(expert, SHAPES, small, factors).delta["c"]
    expected += share[:, i, None, None] * (said - factors.delta["c"])
  np.testing.assert_allclose(pseudo.delta["c"], expected, rtol=1e-4, atol=1e-5)
