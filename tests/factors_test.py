"""Factors rebuild the weight gradient without ever forming it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instructedit_jax.editing import factors as factors_lib
from instructedit_jax.models.decoder import Sequence
from instructedit_jax.models.language_model import LanguageModel, random_model
from instructedit_jax.models.presets import preset

T, TARGET = 9, 3


@functools.cache
def make(family: str) -> LanguageModel:
  return random_model(preset(family))


def loss(decoder, tokens, tap=None):
  """Sum over rows of the mean NLL of each row's last TARGET tokens."""
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  logits = decoder(tokens, Sequence(positions, jnp.ones_like(positions)), tap)
  logp = jax.nn.log_softmax(logits[:, -TARGET - 1 : -1])
  chosen = jnp.take_along_axis(logp, tokens[:, -TARGET:, None], -1)
  return -chosen.sum() / TARGET


def probe(model, tokens):
  def run(params):
    decoder = model.decoder(params)
    return factors_lib.probe(lambda tap: (loss(decoder, tokens, tap), None))

  return jax.jit(run)(model.params)


@pytest.fixture
def tokens():
  return np.random.default_rng(0).integers(0, 272, (2, T)).astype(np.int32)


FAMILIES = pytest.mark.parametrize("family", ["tiny-gpt2", "tiny-llama"])


@FAMILIES
def test_factors_rebuild_the_weight_gradient(family, tokens):
  model = make(family)
  inputs, deltas, value, _ = probe(model, tokens)
  direct, gradients = jax.jit(
    jax.value_and_grad(lambda params: loss(model.decoder(params), tokens))
  )(model.params)
  np.testing.assert_allclose(value, direct, 1e-6)
  suffix = gradients["suffix_blocks"]
  assert inputs.keys() == set(model.config.editable)
  for name in inputs:
    block, matrix = name.split(".")
    mlp = suffix[int(block) - model.config.first_editable]["mlp"]
    wanted = np.asarray(mlp[matrix]["kernel"][...])
    built = np.einsum("btn,btm->nm", inputs[name], deltas[name])
    np.testing.assert_allclose(built, wanted, atol=1e-5 * np.abs(wanted).max())


@FAMILIES
def test_the_last_block_keeps_the_rows_that_predict_the_target(family, tokens):
  inputs, deltas, _, _ = probe(make(family), tokens)
  masks = factors_lib.all_rows(inputs, deltas).mask
  last = str(make(family).config.blocks - 1)
  for name, mask in masks.items():
    wanted = np.zeros((2, T), bool)
    # Elsewhere every token but the last, which nothing is predicted from.
    wanted[:, T - TARGET - 1 if name.startswith(last) else 0 : -1] = True
    np.testing.assert_array_equal(mask, wanted, name)


@FAMILIES
def test_requests_of_a_batch_do_not_mix(family, tokens):
  inputs, deltas, _, _ = probe(make(family), tokens)
  for row in range(2):
    alone, alone_deltas, _, _ = probe(make(family), tokens[row : row + 1])
    for name in inputs:
      np.testing.assert_allclose(inputs[name][row], alone[name][0], atol=1e-5)
      scale = np.abs(alone_deltas[name]).max()
      np.testing.assert_allclose(
        deltas[name][row], alone_deltas[name][0], atol=1e-5 * scale
      )


def test_answer_rows_are_gathered_and_padding_is_zeroed():
  inputs = {
    "0.up": jnp.arange(24.0).reshape(2, 4, 3),
    "1.up": jnp.ones((2, 2, 3)),  # the last block's, gathered already
  }
  at = jnp.array([[1, 3], [2, 0]])
  mask = jnp.array([[True, True], [True, False]])
  found = factors_lib.answer_rows(inputs, inputs, at, mask, ["1.up"])
  np.testing.assert_array_equal(found.x["0.up"][0], inputs["0.up"][0, [1, 3]])
  np.testing.assert_array_equal(found.x["0.up"][1, 0], inputs["0.up"][1, 2])
  assert not found.x["0.up"][1, 1].any()
  assert not found.delta["1.up"][1, 1].any()
  assert found.delta["1.up"].shape == (2, 2, 3)
  np.testing.assert_array_equal(found.mask["1.up"], mask)


def test_half_precision_keeps_wide_gradients(tokens):
  model = make("tiny-llama")

  def run(params):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    decoder = model.decoder(half)
    # So small that float16 would flush it.
    return factors_lib.probe(
      lambda tap: (1e-12 * loss(decoder, tokens, tap), None)
    )

  _, deltas, _, _ = jax.jit(run)(model.params)
  for name, delta in deltas.items():
    assert delta.dtype == jnp.float32, name
    assert np.abs(delta).max() > 0, name


def test_probes_cost_no_weight_gradient(tokens):
  model = make("tiny-llama")
  graph, params = nnx.split(model.decoder(model.params))
  text = jax.jit(
    lambda params: factors_lib.probe(
      lambda tap: (loss(nnx.merge(graph, params), tokens, tap), None)
    )[:2]
  ).lower(params)
  out = jax.tree.leaves(text.out_info)
  widest = max(np.prod(leaf.shape) for leaf in out)
  assert widest <= 2 * T * model.config.ffn
