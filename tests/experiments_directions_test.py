"""Directions of updates: inner products, separation, where they come from."""

import dataclasses
import json

import jax
import ml_collections
import numpy as np
import pytest

from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editors import metalearned
from instructedit_jax.editors.base import Request
from instructedit_jax.errors import UserError
from instructedit_jax.experiments import editing_area, embedding, gram
from instructedit_jax.experiments import separation as separating
from instructedit_jax.experiments.directions import updates
from instructedit_jax.experiments.setup import setup
from instructedit_jax.models.language_model import load_model
from instructedit_jax.tasks.instructions import Instruction
from tests import tiny

TOLD = Instruction("t", "Do it.")


@pytest.fixture(scope="module")
def groups():
  """Two groups of nearly parallel rank-2 updates, and their labels."""
  rng = np.random.default_rng(0)
  labels = np.repeat([0, 1], 12)
  u = rng.normal(size=(2, 2, 7))[labels] + 0.05 * rng.normal(size=(24, 2, 7))
  v = rng.normal(size=(2, 2, 5))[labels] + 0.05 * rng.normal(size=(24, 2, 5))
  return u, v, labels


def test_inner_products_are_those_of_the_dense_updates(groups, monkeypatch):
  u, v, _ = groups
  dense = np.einsum("irn,irm->inm", u, v).reshape(len(u), -1)
  wanted = dense @ dense.T
  np.testing.assert_allclose(gram.inner_products(u, v), wanted, rtol=1e-10)
  monkeypatch.setattr(gram, "_BLOCK", 10)  # blocks of five, the last of four
  np.testing.assert_allclose(gram.inner_products(u, v), wanted, rtol=1e-10)
  np.testing.assert_allclose(gram.norms(wanted), np.linalg.norm(dense, axis=1))
  cosine = gram.cosines(wanted)
  np.testing.assert_allclose(np.diag(cosine), 1)


def test_an_update_of_zero_has_no_direction():
  cosine = gram.cosines(np.array([[4.0, 0.0], [0.0, 0.0]]))
  np.testing.assert_array_equal(cosine, [[1, 0], [0, 0]])


def test_groups_apart_are_told_apart_and_random_labels_are_not(groups):
  u, v, labels = groups
  cosine = gram.cosines(gram.inner_products(u, v))
  found = separating.separation(cosine, labels)
  assert found.silhouette > 0.9
  assert found.within > 0.95 > found.between
  assert found.probe == 100
  assert found.chance == 50
  # Ten shuffles of 24 labels: a deviation of 3 points about 50.
  assert 30 < found.shuffled < 70
  apart = [
    cosine[i, j]
    for i in np.flatnonzero(labels == 1)
    for j in np.flatnonzero(labels == 1)
    if i != j
  ]
  rest = cosine[labels == 1][:, labels == 0]
  np.testing.assert_allclose(found.groups["1"], (np.mean(apart), rest.mean()))
  mixed = separating.separation(cosine, np.tile([0, 1], 12))
  assert abs(mixed.silhouette) < 0.2


def test_the_silhouette_is_scikit_learns(groups):
  metrics = pytest.importorskip("sklearn.metrics")
  rng = np.random.default_rng(1)
  x = rng.normal(size=(30, 4))
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  labels = rng.integers(3, size=30)
  distance = np.clip(1 - x @ x.T, 0, None)
  np.fill_diagonal(distance, 0)
  wanted = metrics.silhouette_score(distance, labels, metric="precomputed")
  assert separating.silhouette(x @ x.T, labels) == pytest.approx(wanted)


def test_coordinates_keep_all_distances(groups):
  u, v, _ = groups
  cosine = gram.cosines(gram.inner_products(u, v))
  points = embedding.coordinates(cosine)
  apart = ((points[:, None] - points[None]) ** 2).sum(-1)
  np.testing.assert_allclose(apart, 2 - 2 * cosine, atol=1e-8)


@pytest.mark.parametrize("count", [1, 5])
def test_directions_that_do_not_differ_lie_at_one_point(count):
  points = embedding.tsne(np.ones((count, count)))
  np.testing.assert_array_equal(points, np.zeros((count, 2)))


def test_the_picture_is_the_same_every_time(groups):
  pytest.importorskip("sklearn")
  u, v, labels = groups
  cosine = gram.cosines(gram.inner_products(u, v))
  points = embedding.tsne(cosine, 5)
  np.testing.assert_array_equal(points, embedding.tsne(cosine, 5))
  centres = [points[labels == g].mean(0) for g in (0, 1)]
  spread = max(points[labels == g].std() for g in (0, 1))
  assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread


@pytest.fixture(scope="module")
def model():
  return tiny.model()


def _requests(instruction=TOLD):
  return [Request(f"S{i} is", "a b"[: 1 + 2 * (i % 2)], instruction)
          for i in range(3)]  # fmt: skip


def _dense(made):
  return LowRankEdit(made.u, made.v).dense()


def _close(a, b):
  for name, value in a.items():
    np.testing.assert_allclose(value, b[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_stages_are_what_they_are_called(model):
  editor = tiny.editor(model, "instructedit")
  stages = ("whitened", "pseudo", "update")
  made = updates(model, editor, _requests(), stages)
  found = {stage: _dense(each) for stage, each in made.items()}
  # An untrained network is the identity, and without statistics so is
  # whitening; the editor's one step is downhill along the gradient.
  _close(found["pseudo"], found["whitened"])
  edit = editor.propose_each(model, _requests())
  _close(found["update"], edit.dense())
  for name, value in found["pseudo"].items():
    np.testing.assert_allclose(
      found["update"][name], -editor.config.rate * value, rtol=1e-4, atol=1e-6
    )


def test_instructions_of_equal_text_give_equal_directions(model):
  editor = tiny.editor(model, "instructedit_text")
  pair = [Request("S is", "a", Instruction("t", text)) for text in ("x", "x")]
  made = updates(model, editor, [*pair, Request("S is", "a")], ["pseudo"])
  for u in made["pseudo"].u.values():
    np.testing.assert_array_equal(u[0], u[1])
    assert not np.allclose(u[0], u[2])


@pytest.mark.slow
def test_rows_of_the_instruction_can_be_left_out(model):
  config = metalearned.EditorConfig("instructedit_text", rows="all", rounds=1)
  params, statistics = metalearned.init(jax.random.key(0), config, model.config)
  editor = dataclasses.replace(
    tiny.editor(model), config=config, params=params, statistics=statistics
  )
  made = updates(model, editor, _requests(), ["pseudo", "answer"])
  whole, answer = made["pseudo"], made["answer"]
  first, last = next(iter(whole.u)), list(whole.u)[-1]
  told = len(TOLD.alone())  # a token is a byte
  assert not answer.u[first][:, :told].any()
  assert whole.u[first][:, :told].any()
  np.testing.assert_array_equal(
    answer.u[first][:, told:], whole.u[first][:, told:]
  )
  np.testing.assert_array_equal(answer.u[last], whole.u[last])


def _config(**changes):
  values = {
    "model": "random:tiny-llama",
    "data": "embedded",
    "tasks": ("counterfact", "zsre"),
    "limit": 2,
    "seeds": (0,),
    "told": ("held_out:0", "shuffled:0"),
    "stages": ("pseudo",),
    "pictured": "pseudo",
    "perplexities": (1.0,),
    "editors": {},
  }
  return ml_collections.ConfigDict(values | changes)


@pytest.mark.slow
def test_the_experiment(tmp_path):
  pytest.importorskip("sklearn")
  base = load_model("random:tiny-llama")
  for method in ("mend", "instructedit"):
    tiny.editor(base, method).save(tmp_path / method)
  given = {m: (str(tmp_path / m),) for m in ("mend", "instructedit")}
  other = load_model("random:tiny-gpt2")
  tiny.editor(other, "mend").save(tmp_path / "other")
  given["other"] = (str(tmp_path / "other"),)
  out = tmp_path / "out"
  made = setup("editing_area", _config(), given=given, out=out, command="it")
  editing_area.run(editing_area.checked(made))
  areas = json.loads((out / "numbers.json").read_text())
  places = {(a["editor"], a["told"], a["stage"], a["label"]) for a in areas}
  assert len(places) == len(areas) == 1 + 3
  assert ("mend", "none", "pseudo", "record") in places
  assert ("instructedit", "shuffled:0", "pseudo", "instruction") in places
  # An untrained conditioner does nothing: all gradients are the same.
  values = {a["whole"]["silhouette"] for a in areas if a["label"] == "record"}
  assert np.ptp(list(values)) < 1e-5
  assert all(a["whole"]["count"] == 4 for a in areas)
  text = (out / "table.md").read_text()
  assert "instructedit, told shuffled:0, pseudo, by instruction" in text
  assert "counterfact 2, zsre 2" in text
  assert (out / "figure-perplexity1.png").read_bytes().startswith(b"\x89PNG")
  stamp = json.loads((out / "protocol.json").read_text())
  assert stamp["command"] == "it"
  assert len(stamp["editors"]) == 2
  # One of another model leaves the others.
  assert list(stamp["failed"]) == ["other, seed 0"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"pictured": "update"}, "is none of config"),
    ({"stages": ("pseudo", "pseud0")}, "config.stages: 'pseud0' is none of"),
    ({"told": ("held_out:0", "heldout:0")}, "heldout"),
    ({"told": ("seen:99",)}, "no instruction 'seen:99'"),
  ],
)
def test_what_cannot_be_computed_is_told_at_once(changes, message):
  made = setup("editing_area", _config(**changes))
  with pytest.raises(UserError, match=message):
    editing_area.checked(made)
