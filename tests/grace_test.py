"""GRACE: nothing outside the radius, the target inside, a book by its rules."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editing.archive import load_edit, save_edit
from instructedit_jax.editing.codebook import UNUSED, CodebookEdit
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.sequences import score
from instructedit_jax.editors import grace
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.grace import Book, Grace, GraceConfig
from instructedit_jax.editors.training_free import Common, read_rows
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation.predictions import predict
from instructedit_jax.models.decoder import Sequence
from tests import tiny

# One token an answer: what a single replaced output tells later tokens goes
# through attention, and with random weights next to nothing does.
REQUESTS = [
  Request("S1 is", "a"),
  Request("Where is S22?", "b"),
  Request("What of it:", "e"),
]
OTHERS = ["T7 was", "Who wrote this?", "Is it S1"]


@functools.cache
def make(family="tiny-llama"):
  """Llama's head is large enough to be sure of something."""
  model = tiny.model(family)
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: 30 * leaf if "head" in str(path[0]) else leaf,
    model.params,
  )
  return dataclasses.replace(model, params=params)


def editor(**changes) -> Grace:
  return Grace(GraceConfig(**{"radius": 1e-3} | changes))


def predictions(model, requests, edit, target=None):
  """Each request's target asked for, in rows packed with other questions."""
  texts = [
    [
      score(model.text, prompt, target or r.target, context=200)
      for prompt in (*OTHERS, r.prompt)
    ]
    for r in requests
  ]
  return predict(model, PrefixCache(model), texts, edit)


def test_the_tap_is_the_definition():
  rng = np.random.default_rng(0)
  keys, values = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 4))
  radii = np.asarray([[1.5, 0.5, UNUSED], [2.0, UNUSED, 1.0]])
  x, y = rng.normal(size=(2, 40, 5)), rng.normal(size=(2, 40, 4))
  edit = CodebookEdit("2.up", *map(jnp.asarray, (keys, values, radii)))
  x[0, 0], x[0, 1] = keys[0, 2], keys[0, 1]
  found = np.asarray(edit.tap()("2.up", jnp.asarray(x), jnp.asarray(y)))
  hits = 0
  for b in range(2):
    for t in range(40):
      gaps = np.linalg.norm(x[b, t] - keys[b], axis=-1)
      gaps[radii[b] < 0] = np.inf
      c = gaps.argmin()
      near = gaps[c] <= radii[b, c]
      hits += near
      wanted = values[b, c] if near else y[b, t]
      np.testing.assert_array_equal(found[b, t], wanted.astype(np.float32))
  assert 0 < hits < 80
  other = jnp.asarray(y)
  assert edit.tap()("2.down", jnp.asarray(x), other) is other
  one = edit[1].tap()("2.up", jnp.asarray(x), other)
  np.testing.assert_array_equal(one[1], found[1])


@pytest.mark.parametrize("family", ["tiny-gpt2", "tiny-llama"])
def test_far_away_the_model_is_the_base_to_the_bit(family):
  model = make(family)
  edit = editor().propose_each(model, REQUESTS)
  assert edit.batched
  tokens = jnp.arange(36).reshape(3, 12) * 7 % 250
  positions = jnp.broadcast_to(jnp.arange(12)[None], (3, 12))
  sequence = Sequence(positions, jnp.ones((3, 12), jnp.int32))
  run = jax.jit(
    lambda edit: model.decoder()(tokens, sequence, edit.tap() if edit else None)
  )
  np.testing.assert_array_equal(run(edit), run(None))
  everywhere = dataclasses.replace(edit, radii=edit.radii + 1e6)
  assert jnp.abs(run(everywhere) - run(None)).max() > 0.1


@pytest.mark.parametrize("family", ["tiny-gpt2", "tiny-llama"])
def test_the_target_is_given_forced_and_free(family):
  model = make(family)
  edit = editor().propose_each(model, REQUESTS)
  for row in predictions(model, REQUESTS, edit):
    for other in row[:-1]:
      np.testing.assert_array_equal(other.after, other.before)
      np.testing.assert_allclose(other.divergence, 0, atol=1e-6)
    np.testing.assert_array_equal(row[-1].after, row[-1].labels)
  texts = model.generate(
    [r.prompt for r in REQUESTS], edit=edit, max_new_tokens=3
  )
  for text, request in zip(texts, REQUESTS, strict=True):
    assert text.strip().startswith(request.target)
  assert model.generate(OTHERS, edit=edit, max_new_tokens=3) == model.generate(
    OTHERS, max_new_tokens=3
  )


@pytest.mark.parametrize("where", [(1, "down"), (2, "up"), (3, "gate")])
def test_the_key_is_the_input_where_the_prompt_ends(where):
  model = make()
  name = "{}.{}".format(*where)
  _, rows = read_rows(model, REQUESTS, Common(), None)
  keys, outputs = grace.look(model, name, rows)
  for row, request in enumerate(REQUESTS):
    ids, start = model.text.encode_pair(request.prompt, request.target)
    seen = {}

    def tap(name, x, y, seen=seen):
      seen[name] = x, y
      return y

    tokens = jnp.asarray(ids[:start])[None]
    positions = jnp.arange(start)[None]
    sequence = Sequence(positions, positions * 0 + 1)
    model.decoder()(tokens, sequence, tap)
    np.testing.assert_allclose(keys[row], seen[name][0][0, -1], atol=1e-5)
    np.testing.assert_allclose(outputs[row], seen[name][1][0, -1], atol=1e-5)


def test_the_value_is_learned_down_its_gradient():
  model = make()
  request = REQUESTS[1:2]
  _, rows = read_rows(model, request, Common(), None)
  edit = editor(steps=0).propose_each(model, request)
  start = edit.values[:, 0]
  assert 0 <= start.min() < start.max() <= 1
  entries = jnp.zeros(1, jnp.int32)
  way = jax.random.normal(jax.random.key(0), start.shape)

  @jax.jit
  def loss(step):
    values = start + step * way
    return grace.losses(model.decoder(), rows, edit, entries, values).sum()

  numeric = (loss(0.01) - loss(-0.01)) / 0.02
  np.testing.assert_allclose(jax.grad(loss)(0.0), numeric, rtol=0.02, atol=1e-3)
  warm = editor(steps=0, start="warm").propose_each(model, request)
  for row in predictions(model, request, warm):
    np.testing.assert_allclose(row[-1].log_after, row[-1].log_before, atol=1e-5)


def test_every_start_and_rate_ends_in_the_same_place():
  model = make()
  long = [Request("Where is S22?", "b c d")]
  found = [
    predictions(model, long, editor(**changes).propose_each(model, long))
    for changes in ({}, {"start": "warm", "rate": 0.05, "steps": 300})
  ]
  (cold,), (warm,) = found
  np.testing.assert_allclose(cold[-1].log_after, warm[-1].log_after, atol=0.1)
  assert cold[-1].log_after.mean() > cold[-1].log_before.mean() + 1


def test_a_book_follows_its_rules():
  book = Book(1.0)

  def key(x):
    return np.asarray([x, 0.0])

  assert book.enter(key(0.0), "a") == (0, True)
  # Further than both radii: a new entry.
  assert book.enter(key(2.5), "a") == (1, True)
  # Near, the same target: no entry, the radius grows to cover it.
  assert book.enter(key(-1.5), "a") == (0, False)
  assert book.radii == [1.5, 1.0]
  assert book.enter(key(-0.5), "a") == (0, False)
  assert book.radii == [1.5, 1.0]
  # Near, another target: both radii are half the distance.
  assert book.enter(key(3.1), "b") == (2, True)
  np.testing.assert_allclose(book.radii, [1.5, 0.3 - 1e-5, 0.3])
  # The same text again with another target: the later one holds.
  assert book.enter(key(3.1), "c") == (3, True)
  assert book.radii[2] == UNUSED
  assert 0 < book.radii[3] < 0.01
  assert book.enter(key(3.1), "c") == (3, False)


def test_several_requests_are_entered_one_after_the_other():
  model = make()
  edit = editor().propose(model, REQUESTS)
  assert not edit.batched
  assert edit.keys.shape[0] == len(edit.radii) == 3
  for row in predictions(model, REQUESTS, edit):
    np.testing.assert_array_equal(row[-1].after, row[-1].labels)
  one = editor().propose(model, REQUESTS[1])
  each = editor().propose_each(model, REQUESTS)[1]
  np.testing.assert_allclose(one.keys, each.keys, atol=1e-5)
  # The later of two contradicting requests wins.
  twice = [REQUESTS[0], Request("S1 is", "g")]
  edit = editor().propose(model, twice)
  (row,) = predictions(model, twice[1:], edit)
  np.testing.assert_array_equal(row[-1].after, row[-1].labels)
  # Two of one target within the radius share an entry.
  wide = editor(radius=1e3).propose(model, [Request(p, "a") for p in OTHERS])
  assert len(wide.radii) == 1


def test_what_makes_no_sense_is_refused_and_the_rest_is_kept(tmp_path):
  model = make()
  edit = editor(steps=2).propose_each(model, REQUESTS)
  for act in (
    lambda: edit.merge(model),
    lambda: -edit,
    lambda: edit + edit,
    lambda: edit.scale(2.0),
  ):
    with pytest.raises(UserError, match="GRACE"):
      act()
  save_edit(tmp_path / "e.npz", edit, model)
  again = load_edit(tmp_path / "e.npz", model)
  assert isinstance(again, CodebookEdit)
  assert again.name == edit.name
  jax.tree.map(np.testing.assert_array_equal, again, edit)
  (tmp_path / "e.npz").write_bytes(b"broken")
  with pytest.raises(UserError, match="damaged"):
    load_edit(tmp_path / "e.npz", model)


@pytest.mark.parametrize(
  ("changes", "message"),
  [({"start": "x"}, "start"), ({"radius": -1.0}, "radius")],
)
def test_mistakes_are_told(changes, message):
  with pytest.raises(UserError, match=message):
    editor(**changes)
