"""Edits in weights and in files act as edits beside the model do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instructedit_jax.editing.archive import load_edit, save_edit
from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.merging import merge
from instructedit_jax.errors import UserError
from instructedit_jax.models.decoder import Sequence
from instructedit_jax.models.language_model import random_model
from instructedit_jax.models.presets import preset
from tests import tiny


def _logits(model, edit=None):
  return _run(model.graph, model.params, edit)


@functools.partial(jax.jit, static_argnums=0)
def _run(graph, params, edit):
  tokens = jnp.arange(24).reshape(2, 12) * 7 % 250
  sequence = Sequence(
    jnp.broadcast_to(jnp.arange(12)[None], (2, 12)),
    jnp.ones((2, 12), jnp.int32),
  )
  tap = None if edit is None else edit.tap()
  return nnx.merge(graph, params)(tokens, sequence, tap)


def _random(model, rank: int = 3) -> LowRankEdit:
  u, v = {}, {}
  for i, name in enumerate(model.config.editable):
    keys = jax.random.split(jax.random.key(i))
    n, m = model.config.matrix_shape(name)
    u[name] = jax.random.normal(keys[0], (rank, n))
    v[name] = 0.1 * jax.random.normal(keys[1], (rank, m))
  return LowRankEdit(u, v)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_merged_weights_compute_what_the_tap_does(name):
  model = tiny.model(name)
  edit = _random(model)
  merged = edit.merge(model)
  before, tapped = _logits(model), _logits(model, edit)
  assert jnp.abs(tapped - before).max() > 0.01
  np.testing.assert_allclose(_logits(merged), tapped, atol=1e-5)
  np.testing.assert_array_equal(_logits(model), before)
  assert merged.fingerprint != model.fingerprint
  assert merged.name != model.name


def test_merging_the_negative_restores_the_model():
  model = tiny.model()
  edit = _random(model)
  restored = (-edit).merge(edit.merge(model))
  for one, other in zip(
    jax.tree.leaves(restored.params), jax.tree.leaves(model.params), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=1e-6)
  np.testing.assert_allclose(_logits(restored), _logits(model), atol=1e-6)


def test_what_is_not_edited_is_shared():
  model = tiny.model()
  name = model.config.editable[-1]
  merged = merge(model, {name: jnp.ones(model.config.matrix_shape(name))})
  changed = [
    one is not other
    for one, other in zip(
      jax.tree.leaves(merged.params),
      jax.tree.leaves(model.params),
      strict=True,
    )
  ]
  assert sum(changed) == 1


def test_half_precision_weights_keep_their_type():
  model = random_model(preset("tiny-llama"), dtype="bfloat16")
  merged = _random(model).merge(model)
  assert jax.tree.map(lambda leaf: leaf.dtype, merged.params) == jax.tree.map(
    lambda leaf: leaf.dtype, model.params
  )


def test_edits_that_do_not_fit_are_refused():
  model = tiny.model()
  edit = _random(model)
  batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), edit)
  with pytest.raises(UserError, match="2 independent edits"):
    batch.merge(model)
  np.testing.assert_allclose(
    batch.combined().dense()["3.up"], 2 * edit.dense()["3.up"], atol=1e-6
  )
  with pytest.raises(UserError, match=r"no editable matrices"):
    merge(model, {"0.up": jnp.zeros((32, 64))})
  with pytest.raises(UserError, match="has shape"):
    merge(model, {"3.up": jnp.zeros((64, 32))})


def test_edits_survive_a_file(tmp_path):
  model = tiny.model()
  edit = _random(model)
  save_edit(tmp_path / "edit.npz", edit, model)
  loaded = load_edit(tmp_path / "edit.npz", model)
  jax.tree.map(np.testing.assert_array_equal, loaded, edit)
  assert [p.name for p in tmp_path.iterdir()] == ["edit.npz"]


def test_files_that_hold_no_edit_of_the_model(tmp_path):
  model = tiny.model()
  with pytest.raises(UserError, match="no such file"):
    load_edit(tmp_path / "absent.npz", model)
  for content in ("text", ""):
    (tmp_path / "text.npz").write_text(content)
    with pytest.raises(UserError, match="not an edit"):
      load_edit(tmp_path / "text.npz", model)
  np.savez(tmp_path / "other.npz", x=np.zeros(2))
  with pytest.raises(UserError, match="not an edit"):
    load_edit(tmp_path / "other.npz", model)
  save_edit(tmp_path / "edit.npz", _random(model), model)
  with pytest.raises(UserError, match="another model"):
    load_edit(tmp_path / "edit.npz", tiny.model(seed=1))
