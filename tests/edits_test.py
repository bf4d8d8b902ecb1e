"""Edits form an algebra, and acting in factors equals acting in weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from instructedit_jax.editing.archive import load_edit, save_edit
from instructedit_jax.editing.edits import Edit, LowRankEdit
from instructedit_jax.errors import UserError
from instructedit_jax.models import families
from instructedit_jax.models.decoder import Sequence
from instructedit_jax.models.language_model import LanguageModel, random_model
from instructedit_jax.models.presets import preset

T = 7
FAMILIES = pytest.mark.parametrize("family", ["tiny-gpt2", "tiny-llama"])


@functools.cache
def make(family: str) -> LanguageModel:
  return random_model(preset(family))


def draw(family: str, seed: int, *lead: int) -> LowRankEdit:
  """A random edit of every editable matrix, of rank 3, as large as weights."""
  config, rng = make(family).config, np.random.default_rng(seed)

  def normal(size):
    return jnp.asarray(rng.normal(0, 0.1, (*lead, 3, size)), jnp.float32)

  shapes = {name: config.matrix_shape(name) for name in config.editable}
  return LowRankEdit(
    u={name: normal(n) for name, (n, _) in shapes.items()},
    v={name: normal(m) for name, (_, m) in shapes.items()},
  )


def logits(family, edit=None, rows=2, params=None):
  model = make(family)
  tokens = np.arange(rows * T).reshape(rows, T) % 272
  positions = np.broadcast_to(np.arange(T)[None], tokens.shape)
  sequence = Sequence(jnp.asarray(positions), jnp.ones((rows, T), jnp.int32))
  tap = None if edit is None else edit.tap()
  return model.decoder(params)(jnp.asarray(tokens), sequence, tap)


@functools.cache
def jitted(family, rows=2):
  return jax.jit(lambda edit: logits(family, edit, rows))


def close(a, b, tolerance=1e-5):
  a, b = np.asarray(a), np.asarray(b)
  np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def dense_close(a: LowRankEdit, b: dict, tolerance=1e-6):
  assert a.dense().keys() == b.keys()
  for name, value in a.dense().items():
    close(value, b[name], tolerance)


@FAMILIES
def test_factors_and_weights_give_one_model(family):
  model, edit = make(family), draw(family, 0)
  merged = edit.merge(model)
  in_weights = jax.jit(lambda p: logits(family, params=p))(merged.params)
  in_factors = jitted(family)(edit)
  close(in_factors, in_weights)
  before = jax.jit(lambda: logits(family))()
  assert np.abs(in_factors - before).max() > 1e-3


@FAMILIES
def test_undoing_is_the_identity(family):
  edit = draw(family, 1)
  close(jitted(family)(edit - edit), jax.jit(lambda: logits(family))())
  for value in (edit + -edit).dense().values():
    np.testing.assert_allclose(value, 0, atol=1e-6)


def test_addition_and_scale_are_those_of_weights():
  a, b, c = (draw("tiny-llama", seed) for seed in range(3))
  add = functools.partial(jax.tree.map, jnp.add)
  dense_close(a + b, add(a.dense(), b.dense()))
  dense_close((a + b) + c, (a + (b + c)).dense())
  dense_close(a + b, (b + a).dense())
  dense_close(a.scale(2.5), jax.tree.map(lambda w: 2.5 * w, a.dense()))
  dense_close((a + b).scale(3), (a.scale(3) + b.scale(3)).dense())
  minus = -a
  dense_close(-minus, a.dense(), 0)
  dense_close(a - b, add(a.dense(), (-b).dense()))


def test_edits_of_different_matrices_do_not_add():
  a = draw("tiny-llama", 0)
  name = next(iter(a.u))
  b = LowRankEdit(u={name: a.u[name]}, v={name: a.v[name]})
  with pytest.raises(ValueError, match="different matrices"):
    _ = a + b


@FAMILIES
def test_independent_edits_of_a_batch_act_alone(family):
  edits = draw(family, 2, 2)
  assert edits.batched
  together = jitted(family)(edits)
  for row in range(2):
    assert not edits[row].batched
    close(together[row], jitted(family)(edits[row])[row])


def test_combined_makes_every_edit_of_a_batch():
  edits = draw("tiny-gpt2", 3, 4)
  combined = edits.combined()
  assert not combined.batched
  dense_close(combined, jax.tree.map(lambda w: w.sum(0), edits.dense()))
  one_by_one = edits[0] + edits[1] + edits[2] + edits[3]
  dense_close(combined, one_by_one.dense())
  dense_close(edits[1:3].combined(), (edits[1] + edits[2]).dense())


def test_matrices_without_an_update_are_untouched():
  edit = draw("tiny-gpt2", 4)
  name = next(iter(edit.u))
  one = LowRankEdit(u={name: edit.u[name]}, v={name: edit.v[name]})
  x, y = jnp.ones((1, 2, 32)), jnp.ones((1, 2, 128))
  assert one.tap()("no.such", x, y) is y
  assert isinstance(one, Edit)


def test_the_dense_update_is_never_built():
  edit = draw("tiny-gpt2", 5)
  text = str(
    jax.make_jaxpr(lambda e, x, y: e.tap()("3.up", x, y))(
      edit, jnp.ones((1, 2, 32)), jnp.ones((1, 2, 128))
    )
  )
  assert "32,128" not in text


@FAMILIES
def test_an_edit_passes_through_every_transformation(family):
  edits = draw(family, 6, 4)
  single = jax.jit(lambda e: logits(family, e, 1))
  wanted = np.stack([single(edits[i]) for i in range(4)])
  close(jax.vmap(single)(edits), wanted)
  mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
  sharded = jax.shard_map(
    jax.vmap(single), mesh=mesh, in_specs=P("data"), out_specs=P("data")
  )
  close(jax.jit(sharded)(edits), wanted)
  close(jax.pmap(single)(edits), wanted)


def test_gradients_reach_both_factors():
  edit = draw("tiny-llama", 7)

  def loss(edit):
    return jnp.square(logits("tiny-llama", edit)).mean()

  gradients = jax.jit(jax.grad(loss))(edit)
  assert isinstance(gradients, LowRankEdit)
  for leaf in jax.tree.leaves(gradients):
    assert np.isfinite(leaf).all()
    assert np.abs(leaf).max() > 0


def test_a_batch_of_edits_has_an_end():
  edits = draw("tiny-gpt2", 6, 2)
  assert len(list(edits)) == 2
  close(edits[-1].u["3.up"], edits.u["3.up"][1], 0)
  for index in (2, -3):
    with pytest.raises(IndexError, match="of 2"):
      _ = edits[index]


@pytest.mark.parametrize("index", [[2, 0, 2], [True, False, True]])
def test_some_of_a_batch_are_taken_by_number_or_by_flag(index):
  edits = draw("tiny-gpt2", 6, 3)
  for chosen in (np.asarray(index), jnp.asarray(index)):
    for name, u in edits[chosen].u.items():
      np.testing.assert_array_equal(u, np.asarray(edits.u[name])[index])


def test_an_edit_that_would_not_act_is_refused(tmp_path):
  """As the fingerprint is, tokens are the same whatever the suffix."""
  deep = random_model(preset("tiny-llama"))
  flat = random_model(families.with_suffix(preset("tiny-llama"), 1))
  assert deep.fingerprint == flat.fingerprint
  edit = draw("tiny-llama", 7)
  path = tmp_path / "edit.npz"
  save_edit(path, edit, deep)
  assert load_edit(path, deep).matrices == edit.matrices
  message = "no editable matrices .*suffix = 1.*load it with the suffix"
  with pytest.raises(UserError, match=message) as error:
    load_edit(path, flat)
  assert str(path) in str(error.value)
  with pytest.raises(UserError, match=message):
    flat.generate("a", edit=edit)
