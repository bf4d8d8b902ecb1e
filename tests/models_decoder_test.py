"""What must hold of any decoder, whatever its weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.models import presets
from instructedit_jax.models.decoder import (
  Sequence,
  causal_mask,
  slot_mask,
  take_tokens,
)
from instructedit_jax.models.language_model import LanguageModel, random_model

# float32 sums in another order, through four blocks.
TOLERANCE = 1e-5
FAMILIES = ("tiny-gpt2", "tiny-llama")


@functools.cache
def make(family: str, **changes) -> LanguageModel:
  config = dataclasses.replace(presets.preset(family), **changes)
  model = random_model(config)
  # 0.02 would leave attention almost uniform and hide a wrong mask.
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * (1 if "norm" in str(path) else 10), model.params
  )
  return dataclasses.replace(model, params=params)


def plain(tokens: np.ndarray) -> Sequence:
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  return Sequence(positions, jnp.ones_like(positions))


def logits(model: LanguageModel, tokens, sequence: Sequence) -> np.ndarray:
  run = jax.jit(lambda params: model.decoder(params)(tokens, sequence))
  return np.asarray(run(model.params))


@pytest.fixture
def tokens() -> np.ndarray:
  return np.random.default_rng(0).integers(0, 272, (3, 11)).astype(np.int32)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family, tokens):
  model = make(family)
  alone = logits(model, tokens, plain(tokens))
  wide = np.pad(tokens, ((0, 0), (0, 5)), constant_values=7)
  positions = jnp.broadcast_to(jnp.arange(16)[None], wide.shape)
  segments = (positions < 11).astype(jnp.int32)
  padded = logits(model, wide, Sequence(positions, segments))
  np.testing.assert_allclose(padded[:, :11], alone, atol=TOLERANCE)
  assert np.isfinite(padded).all()


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_sequences_equal_separate_rows(family, window, tokens):
  model = make(family, window=window)
  parts = [tokens[:1, :4], tokens[1:2, :11], tokens[2:, :6]]
  packed = np.concatenate(parts, 1)
  sizes = [part.shape[1] for part in parts]
  sequence = Sequence(
    jnp.concatenate([jnp.arange(size) for size in sizes])[None],
    jnp.repeat(jnp.arange(1, 4), jnp.asarray(sizes), total_repeat_length=21)[
      None
    ],
  )
  together = logits(model, packed, sequence)
  apart = [logits(model, part, plain(part)) for part in parts]
  np.testing.assert_allclose(together, np.concatenate(apart, 1), atol=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_token_sees_a_later_one(family, tokens):
  model = make(family)

  sequence = plain(tokens)
  weight = np.random.default_rng(1).normal(size=(3, 5, 32))

  @jax.jit
  def prefix(tokens):
    return model.decoder().prefix(tokens, sequence)

  @jax.jit
  @jax.grad
  def gradient(h):
    return (model.decoder().suffix(h, sequence)[:, :5] * weight).sum()

  h = prefix(tokens)
  by_input = np.abs(gradient(h))
  assert by_input[:, :5].min() > 0
  assert by_input[:, 5:].max() == 0
  changed = tokens.copy()
  changed[:, 5:] = 1
  np.testing.assert_array_equal(prefix(changed)[:, :5], h[:, :5])


@pytest.mark.parametrize("suffix", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_scanned_equals_unrolled(family, suffix, tokens):
  unrolled = make(family, suffix=4)
  assert unrolled.decoder().prefix_blocks is None
  scanned = make(family, suffix=suffix)
  assert scanned.fingerprint == unrolled.fingerprint
  sequence = plain(tokens)
  np.testing.assert_allclose(
    logits(scanned, tokens, sequence),
    logits(unrolled, tokens, sequence),
    atol=TOLERANCE,
  )


@pytest.mark.parametrize("suffix", [1, 3, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_scored_tokens_equal_a_gather_of_all(family, suffix, tokens):
  model = make(family, suffix=suffix, window=6)
  at = jnp.asarray([[3, 10], [0, 4], [9, 9]])
  sequence = plain(tokens)

  @jax.jit
  def both(params):
    decoder = model.decoder(params)
    h = decoder.prefix(tokens, sequence)
    whole = decoder.suffix(h, sequence)
    scored = decoder.suffix(h, sequence, at=at)
    return take_tokens(whole, at), scored, decoder.logits(whole)

  expected, actual, whole = both(model.params)
  np.testing.assert_allclose(actual, expected, atol=TOLERANCE)
  np.testing.assert_allclose(
    whole, logits(model, tokens, sequence), atol=TOLERANCE
  )


@pytest.mark.parametrize("suffix", [1, 3, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_tap_sees_exactly_the_editable_matrices(family, suffix, tokens):
  model = make(family, suffix=suffix)
  config, sequence = model.config, plain(tokens)
  seen = {}

  def tap(name, x, y):
    seen[name] = (x.shape[-1], y.shape[-1])
    return y + 1.0

  @jax.jit
  def both(params):
    decoder = model.decoder(params)
    h = decoder.prefix(tokens, sequence)
    return decoder.suffix(h, sequence), decoder.suffix(h, sequence, tap)

  before, after = both(model.params)
  assert tuple(seen) == config.editable
  assert seen == {name: config.matrix_shape(name) for name in config.editable}
  assert np.abs(after - before).max() > 0.01


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("suffix", [1, 3, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_steps_equal_whole_rows(family, suffix, window, tokens):
  model = make(family, suffix=suffix, window=window)

  def tap(name, x, y):
    return y * 1.1

  tokens = jnp.asarray(tokens)

  @jax.jit
  def both(params):
    decoder = model.decoder(params)
    h = decoder.prefix(tokens, plain(tokens))
    whole = decoder.suffix(h, plain(tokens), tap)
    cache = decoder.empty_cache(3, 16, jnp.float32)
    # A prompt of five, padded to seven, then token by token.
    positions = jnp.broadcast_to(jnp.arange(7)[None], (3, 7))
    prompt = jnp.pad(tokens[:, :5], ((0, 0), (0, 2)))
    x, cache = decoder.step(prompt, positions, cache, tap)

    def step(cache, i):
      token = jax.lax.dynamic_slice_in_dim(tokens, i, 1, 1)
      y, cache = decoder.step(token, jnp.full((3, 1), i), cache, tap)
      return cache, y[:, 0]

    _, rest = jax.lax.scan(step, cache, jnp.arange(5, 11))
    return whole, jnp.concatenate([x[:, :5], rest.swapaxes(0, 1)], 1)

  whole, stepped = both(model.params)
  np.testing.assert_allclose(stepped, whole, atol=TOLERANCE)


def test_masks_by_hand():
  sequence = Sequence(
    jnp.asarray([[0, 1, 2, 0, 1, 0]]), jnp.asarray([[1, 1, 1, 2, 2, 0]])
  )
  expected = np.array(
    [
      [1, 0, 0, 0, 0, 0],
      [1, 1, 0, 0, 0, 0],
      [1, 1, 1, 0, 0, 0],
      [0, 0, 0, 1, 0, 0],
      [0, 0, 0, 1, 1, 0],
      [0, 0, 0, 0, 0, 0],
    ],
    bool,
  )
  np.testing.assert_array_equal(causal_mask(sequence)[0], expected)
  expected[2, 0] = False
  np.testing.assert_array_equal(causal_mask(sequence, 2)[0], expected)
  seen = slot_mask(jnp.asarray([[2], [0]]), 4, 2)
  np.testing.assert_array_equal(
    seen[:, 0], [[False, True, True, False], [True, False, False, False]]
  )


def test_names_and_shapes_of_editable_matrices():
  gpt2 = presets.preset("gpt2-xl")
  assert gpt2.editable == (
    "45.up",
    "45.down",
    "46.up",
    "46.down",
    "47.up",
    "47.down",
  )
  assert gpt2.matrix_shape("45.up") == (1600, 6400)
  assert gpt2.matrix_shape("45.down") == (6400, 1600)
  llama = presets.preset("llama-2-7b")
  assert llama.editable[:3] == ("29.gate", "29.up", "29.down")


def test_random_models_depend_on_the_seed_alone():
  config = presets.preset("tiny-llama")
  again = random_model(config)
  assert again.fingerprint == random_model(config).fingerprint
  assert again.fingerprint != random_model(config, seed=1).fingerprint
  narrow = dataclasses.replace(config, rope_theta=500.0)
  assert again.fingerprint != random_model(narrow).fingerprint
  half = random_model(config, dtype="bfloat16")
  assert half.fingerprint == again.fingerprint
  assert half.params["embedding"][...].dtype == jnp.bfloat16
  spread = np.asarray(again.params["embedding"][...]).std()
  assert abs(spread - 0.02) < 0.001
