import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import rows_of
from instructedit_jax.editing.sequences import (
  Scored,
  bucket,
  pack,
  row_length,
  score,
  unscored,
)
from instructedit_jax.editors.metalearned import factors_and_answers
from instructedit_jax.errors import UserError
from instructedit_jax.models import decoder
from tests import tiny_run as tiny


@pytest.fixture(scope="module")
def model():
  return tiny.model()


@given(st.integers(1, 5000))
def test_bucket_holds_its_length(length):
  size = bucket(length, (32, 64))
  assert size >= length
  assert size in (32, 64) or size & (size - 1) == 0


def test_score_marks_exactly_the_target(model):
  scored = score(model.text, "The sky is", "blue", context=512)
  text = model.text.decode([*scored.tokens, scored.labels[-1]])
  assert text.endswith("The sky is blue")
  assert "blue" in model.text.decode(list(scored.labels))
  # The last label is predicted, never fed.
  assert scored.tokens[-1] == scored.labels[-2]


def test_score_cuts_long_targets_and_does_not_feed_the_rest(model):
  full = score(model.text, "a b c", "a very long answer", context=512)
  cut = score(model.text, "a b c", "a very long answer", context=512, limit=3)
  assert cut.labels == full.labels[:3]
  assert len(full.tokens) - len(cut.tokens) == len(full.labels) - 3


def test_score_refuses_what_does_not_fit(model):
  with pytest.raises(UserError, match="at most 8"):
    score(model.text, "far too long a prompt", "x", context=8)


def test_packed_states_equal_separate_forwards(model):
  pairs = [("The sky is", "blue"), ("Who wrote it?", "Ada"), ("x", "y z")]
  scored = [score(model.text, *pair, context=512) for pair in pairs]
  states = PrefixCache(model)(scored)
  network = model.decoder()
  for sequence, state in zip(scored, states, strict=True):
    tokens = jnp.asarray([sequence.tokens])
    where = decoder.Sequence(
      jnp.arange(tokens.shape[1])[None], jnp.ones_like(tokens)
    )
    hidden = network.prefix(tokens, where)
    final = network.suffix(hidden, where)[0, -len(sequence.labels) :]
    # float32 sums in another order.
    np.testing.assert_allclose(state.hidden, hidden[0], atol=2e-6)
    np.testing.assert_allclose(state.final, final, atol=2e-5)


def test_packed_rows_predict_as_separate_ones(model):
  pairs = [("The sky is", "blue"), ("Who wrote it?", "Ada Lovelace")]
  scored = [score(model.text, *pair, context=512) for pair in pairs]
  cache, width = PrefixCache(model), model.config.width
  network = model.decoder()
  together = rows_of(pack([scored], 64, 32), [cache(scored)], width)
  both = network.suffix(together.hidden, together.sequence, None, together.at)
  apart = [
    rows_of(pack([[one]], 64, 32), [cache([one])], width) for one in scored
  ]
  each = [
    network.suffix(r.hidden, r.sequence, None, r.at)[0][r.mask[0]]
    for r in apart
  ]
  np.testing.assert_allclose(
    both[0][together.mask[0]], jnp.concatenate(each), atol=2e-5
  )


def _alike() -> st.SearchStrategy[list[Scored]]:
  """Rows of sequences that often begin alike."""
  token = st.integers(1, 2)
  text = st.lists(token, min_size=1, max_size=6).map(tuple)
  answer = st.lists(token, max_size=3).map(tuple)
  scored = st.tuples(text, answer).map(
    lambda pair: Scored(pair[0] + pair[1][:-1], pair[1])
  )
  return st.lists(scored, max_size=6)


@given(_alike())
def test_laid_sequences_read_and_see_as_separate_ones(row):
  length = row_length(row)
  packed = pack([row], 64, 32)
  seen = decoder.causal_mask(decoder.Branches(packed.positions, packed.ends))
  assert np.count_nonzero(packed.ends) == length
  assert length <= sum(len(sequence.tokens) for sequence in row)
  scored = []
  for number, sequence in enumerate(row):
    place = packed.places[0][number]
    np.testing.assert_array_equal(packed.tokens[0, place], sequence.tokens)
    np.testing.assert_array_equal(
      packed.positions[0, place], np.arange(len(place))
    )
    for i, index in enumerate(place):
      assert set(np.flatnonzero(seen[0, index])) == set(place[: i + 1])
    own = packed.owner[0] == number
    at = packed.at[0, own]
    np.testing.assert_array_equal(packed.labels[0, own], sequence.labels)
    np.testing.assert_array_equal(at, place[len(place) - len(at) :])
    scored += [*at]
    # No other sequence goes through a token that predicts something.
    for other, elsewhere in enumerate(packed.places[0]):
      assert other == number or not set(at) & set(elsewhere)
  assert len(scored) == len(set(scored))


def test_factors_of_laid_views_are_those_of_separate_ones(model):
  """Two instructed views share their instruction; the gradients do not know."""
  said = "Say where it is. "
  texts = ("Paris", f"{said}Paris", f"{said}Is Paris", f"{said}Paris")
  views = [score(model.text, text, "in Peru", context=512) for text in texts]
  assert row_length(views) < sum(len(view.tokens) for view in views)
  cache, network = PrefixCache(model), model.decoder()

  def factors(*row):
    answers = sum(len(view.labels) for view in row)
    packed = pack([list(row)], 128, answers)
    rows = rows_of(packed, [cache(list(row))], model.config.width)
    return factors_and_answers(network, rows)

  laid, losses, answers = factors(*views)
  each = [factors(view) for view in views]
  np.testing.assert_array_equal(
    answers[0], np.concatenate([e[2][0] for e in each])
  )
  np.testing.assert_allclose(
    losses[0], np.mean([e[1][0] for e in each]), rtol=1e-6
  )
  for name in laid.x:
    x = np.concatenate([e[0].x[name][0] for e in each])
    delta = np.concatenate([e[0].delta[name][0] for e in each]) / len(views)
    # float32 sums in another order, relative to the largest.
    for found, wanted in ((laid.x, x), (laid.delta, delta)):
      scale = np.abs(wanted).max()
      np.testing.assert_allclose(found[name][0], wanted, atol=1e-5 * scale)


def test_cache_keeps_its_size(model):
  sequences = [
    score(model.text, "word " * n, "end", context=512) for n in range(2, 40)
  ]
  cache = PrefixCache(model, max_bytes=100_000)
  for sequence in sequences:
    cache.warm([sequence])
  assert cache.nbytes <= 100_000
  assert len(cache) < len(sequences)
  np.testing.assert_array_equal(
    cache(sequences[:1])[0].hidden, PrefixCache(model)(sequences[:1])[0].hidden
  )


def test_every_text_begins_once(model):
  """What begins a text for the tokenizer is put there by it alone."""
  tokenizer = dataclasses.replace(model.text, bos_ids=(257,))
  assert unscored(tokenizer, "ab").tokens == tuple(tokenizer.encode("ab"))
  scored = score(tokenizer, "ab", "c", context=9)
  assert scored.tokens[:3] == unscored(tokenizer, "ab").tokens
  assert scored.tokens.count(257) == 1
