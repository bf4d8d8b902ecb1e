"""Sequences that begin alike share the computation, and nothing else."""

import collections

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructedit_jax.editing import prefix
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.sequences import Scored, score, unscored
from instructedit_jax.editing.shared_prefix import SharedRow, lay, stack
from instructedit_jax.models import decoder
from instructedit_jax.models.language_model import load_model
from instructedit_jax.tasks.instructions import Instruction

_SEQUENCES = st.lists(
  st.lists(st.integers(0, 1), min_size=1, max_size=12).map(tuple),
  min_size=1,
  max_size=30,
)


@given(_SEQUENCES, st.booleans())
@settings(deadline=None, max_examples=50)
def test_a_token_sees_exactly_what_is_before_it_in_its_sequences(
  sequences, share
):
  rows = lay(sequences, 16, share)
  tree = stack(rows, len(rows) + 1, 16)
  seen = np.asarray(
    decoder.causal_mask(decoder.Branches(tree.positions, tree.ends))
  )
  laid = [n for row in rows for n in row.places]
  assert sorted(laid) == list(range(len(sequences)))
  for b, row in enumerate(rows):
    for number, places in row.places.items():
      assert tuple(tree.tokens[b, places]) == sequences[number]
      assert list(tree.positions[b, places]) == list(range(len(places)))
      for i, place in enumerate(places):
        assert list(np.flatnonzero(seen[b, place])) == list(places[: i + 1])
    assert not seen[b, len(row.tokens) :].any()
  assert not seen[-1].any()
  used, plain = sum(len(row.tokens) for row in rows), sum(map(len, sequences))
  assert used <= plain
  assert share or used == plain


@pytest.mark.parametrize("length", [128, 256, 512])
def test_little_of_a_batch_is_padding(length):
  """And there are three shapes a length at most, whatever is to be computed."""
  count = 2048 // length
  seen = set()
  for number in range(1, 3 * count):
    rows = [SharedRow() for _ in range(number)]
    shapes = list(prefix._shapes(rows, length))
    assert len(shapes) == number
    computed = 0
    for size, mine in collections.Counter(shapes).items():
      computed += -(-mine // size[0]) * size[0]
    assert computed - number < max(1, count // 4)
    seen |= {shape for shape in shapes if shape[0] > 1}
  assert seen == {(count, length), (count // 2, length)}


def _instructed(model) -> list[Scored]:
  tasks = [Instruction("zsre", "Answer it."), Instruction("zsre", "Answer, do")]
  prompts = ["Who wrote Emma?", "Who wrote it?", "Who", "What is Emma?"]
  texts = [task.apply(prompt) for task in tasks for prompt in prompts]
  asked = [
    score(model.text, text, target, context=512)
    for text in texts
    for target in ("Jane", "Jo", "nobody at all")
  ]
  return asked + [unscored(model.text, task.alone()) for task in tasks]


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-gpt2"])
def test_shared_equals_plain(preset):
  model = load_model(f"random:{preset}", suffix=2)
  sequences = _instructed(model)
  shared, plain = PrefixCache(model), PrefixCache(model, share=False)
  for one, two in zip(shared(sequences), plain(sequences), strict=True):
    # float32 sums in another order.
    np.testing.assert_allclose(one.hidden, two.hidden, atol=2e-6)
    np.testing.assert_allclose(one.final, two.final, atol=2e-5)
  assert shared.computed == plain.computed == len(sequences)
  assert shared.tokens < plain.tokens / 2


def test_a_window_counts_positions_not_places():
  tree = stack(lay([(1, 2, 3), (1, 2, 4, 5), (1, 9)], 8), 1, 8)
  seen = decoder.causal_mask(decoder.Branches(tree.positions, tree.ends), 2)
  chains = np.asarray(seen[0]) @ np.asarray(tree.positions[0])[:, None]
  positions = tree.positions[0, :6]
  # Each token sees itself and the one before it: 2 p - 1.
  np.testing.assert_array_equal(
    chains[:6, 0], np.where(positions > 0, 2 * positions - 1, 0)
  )


def test_texts_that_begin_alike_need_not_share_tokens():
  """ "ab" + "c" may be one token: only tokens are compared."""
  rows = lay([(1, 2, 3), (7, 3), (1, 2)], 16)
  assert len(rows) == 1
  assert len(rows[0].tokens) == 5


def test_off_keeps_nothing_and_small_caches_drop_the_unused():
  model = load_model("random:tiny-llama", suffix=2)
  one, two, three = (
    score(model.text, f"{word} is", "a", context=512) for word in "xyz"
  )
  off = PrefixCache(model, 0)
  off.warm([one])
  assert off.computed == 0
  states = off([one, two, one])
  assert off.computed == 2
  assert (len(off), off.nbytes) == (0, 0)
  np.testing.assert_array_equal(states[0].hidden, states[2].hidden)
  cache = PrefixCache(model, 2 * sum(part.nbytes for part in states[0]))
  cache([one])
  cache([two])
  cache([one])
  cache([three])  # two was used least recently
  cache([one])
  assert cache.computed == 3
  cache([two])
  assert cache.computed == 4


def test_what_is_planned_is_the_same_bits_whenever_it_is_computed():
  """By a run, by one that continues it, and after having been dropped."""
  model = load_model("random:tiny-llama", suffix=2)
  sequences = _instructed(model)
  one = PrefixCache(model)
  one.plan(sequences)
  whole = dict(zip(sequences, one(sequences), strict=True))
  other = PrefixCache(model, 4 * sum(p.nbytes for p in whole[sequences[0]]))
  other.plan(sequences)
  other.plan(reversed(sequences))  # changes nothing
  assert (other.computed, len(other)) == (0, 0)
  for part in (sequences[::-5], sequences[3:5], sequences[:1], sequences[1:4]):
    for sequence, state in zip(part, other(part), strict=True):
      np.testing.assert_array_equal(state.hidden, whole[sequence].hidden)
      np.testing.assert_array_equal(state.final, whole[sequence].final)
  assert other.nbytes == sum(
    part.nbytes for state in other._held.values() for part in state
  )


def test_few_sequences_do_not_pay_for_a_full_batch(monkeypatch):
  model = load_model("random:tiny-llama", suffix=2)
  shapes = []
  cache = PrefixCache(model)
  start = cache._start
  monkeypatch.setattr(
    cache, "_start", lambda *args: (shapes.append(args[1:]), start(*args))[1]
  )
  cache([score(model.text, "x is", "a", context=512)])
  assert shapes == [(1, 32)]
  assert jnp.isfinite(cache._held[next(iter(cache._held))].hidden).all()
