"""Editors trained in different ways: training, tables, recommendations."""

import json

import ml_collections
import numpy as np
import pytest

from instructedit_jax.errors import Stopped, UserError
from instructedit_jax.experiments import entrants, norms, sweep
from instructedit_jax.experiments.entrants import Entrant
from instructedit_jax.experiments.proportions import recommend
from instructedit_jax.experiments.setup import setup
from instructedit_jax.models.language_model import load_model
from instructedit_jax.training import config as config_lib
from tests import tiny, tiny_run

PLACE = ("t", "bare")


def _recipe(**changes):
  values = config_lib.to_dict(tiny_run.config())
  values["tasks"] = dict(values["tasks"])
  return ml_collections.ConfigDict(values | changes)


def _config(editors, **changes):
  values = {
    "model": "random:tiny-llama",
    "data": "embedded",
    "tasks": ("counterfact",),
    "limit": 2,
    "seeds": (0, 1),
    "instruction": "held_out:0",
    "queries": ("bare",),
    "free": False,
    "free_limit": 0,
    "fluency_limit": 0,
    "title": "Some sweep",
    "about": "What is compared.",
    "reference": "one",
    "axis": {},
    "axis_label": "",
    "proportions": False,
    "norms": False,
    "editors": editors,
  }
  return ml_collections.ConfigDict(values | changes)


@pytest.fixture
def trained(monkeypatch):
  """What was trained; training itself writes an untrained editor."""
  model, calls = load_model("random:tiny-llama"), []

  def train(config, folder):
    calls.append((folder.name, config.steps, dict(config.tasks)))
    if config.steps == 99:
      raise UserError("not finite")
    editor = tiny.editor(model, config.editor.method, 1 + config.seed)
    details = {"tasks": [task for task, _ in config.tasks]}
    object.__setattr__(editor, "details", {**editor.details, **details})
    editor.save(folder / "editor")

  monkeypatch.setattr(entrants.loop, "train", train)
  return calls


def test_only_what_is_missing_is_trained(tmp_path, trained):
  editors = {"one": _recipe(), "bad": _recipe(steps=99)}
  config = _config(editors, order=("one", "bad"))
  made = setup("sweep", config, out=tmp_path, work=tmp_path / "work")
  found, failed = entrants.entrants(made)
  assert [(e.name, len(e.specs)) for e in found] == [("one", 2)]
  assert list(failed) == ["bad, seed 0", "bad, seed 1"]
  assert [name for name, *_ in trained] == ["one-0", "one-1", "bad-0", "bad-1"]
  trained.clear()
  again = setup(
    *("sweep", _config(editors)),
    out=tmp_path, work=tmp_path / "work", seeds=(0, 2), only=("one",),
  )  # fmt: skip
  entrants.entrants(again)
  assert [name for name, *_ in trained] == ["one-2"]
  longer = setup(
    *("sweep", _config(editors)),
    work=tmp_path / "work", seeds=(0,), only=("one",), steps=7,
  )  # fmt: skip
  entrants.entrants(longer)
  assert trained[-1][:2] == ("one-0", 7)


def test_a_stopped_training_stops_the_experiment(tmp_path, monkeypatch):
  def stop(config, folder):
    raise Stopped("stopped by request")

  monkeypatch.setattr(entrants.loop, "train", stop)
  made = setup("sweep", _config({"one": _recipe()}), work=tmp_path)
  with pytest.raises(Stopped):
    entrants.entrants(made)


def test_given_editors_say_what_they_were_trained_on(tmp_path):
  model = load_model("random:tiny-llama")
  config = {"tasks": [["zsre", 1.0], ["convsent", 0.0]], "seed": 4}
  published = {"tasks": ["zsre", "wikirecent"], "dtype": "float32"}
  for name in "ab":
    editor = tiny.editor(model, "mend")
    details = {**editor.details, "config": config | {"dtype": name}}
    object.__setattr__(editor, "details", details)
    editor.save(tmp_path / name)
  a, b = (entrants.given("mine", (str(tmp_path / name),)) for name in "ab")
  assert (a.trained_on, a.seeds, a.dtype) == (("zsre",), (4,), "a")
  assert entrants.given("u", ("ultraedit",)).trained_on == ()
  details = {**editor.details, "config": published}
  object.__setattr__(editor, "details", details)
  editor.save(tmp_path / "c")
  c = entrants.given("theirs", (str(tmp_path / "c"),))
  assert (c.trained_on, c.seeds) == (("zsre", "wikirecent"), ())
  assert entrants.dtype([a, entrants.given("u", ("ultraedit",))]) == "a"
  with pytest.raises(UserError, match="a and b"):
    entrants.dtype([a, b])
  assert entrants.dtype([], "bfloat16") == "bfloat16"
  with pytest.raises(UserError, match="a and bfloat16"):
    entrants.dtype([a], "bfloat16")


@pytest.mark.slow
def test_a_sweep(tmp_path, trained):
  editors = {
    "one": _recipe(tasks={"counterfact": 1.0}),
    "two": _recipe(tasks={"counterfact": 1.0, "zsre": 3.0}),
  }
  axis = {"one": 1.0, "two": 2.0}
  config = _config(
    editors, seeds=(0,), axis=axis, axis_label="tasks", norms=True
  )
  made = setup(
    "sweep", config, out=tmp_path / "out", work=tmp_path / "work", command="it"
  )
  sweep.run(made)
  assert len(trained) == 2
  text = (tmp_path / "out" / "table.md").read_text()
  for part in ("counterfact, zsre", "†", "two - one", "pseudo-gradient"):
    assert part in text
  numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
  # Both are the same untrained editors: no difference, and the same norms.
  assert all(d["value"] == 0 for d in numbers["differences"])
  assert numbers["update_norms"]["one"] == numbers["update_norms"]["two"]
  assert (tmp_path / "out" / "figure.png").is_file()
  assert (tmp_path / "out" / "figure-norms.png").is_file()


def test_norms_of_training_steps_are_read(tmp_path):
  rows = [{"step": i, "train/gradient_norm": float(i)} for i in range(1, 101)]
  rows.append({"step": 101, "validation/loss": 1.0})
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "metrics.jsonl").write_text(text)
  entrant = Entrant("a", (str(tmp_path),))
  found = norms.training_norms([entrant, Entrant("b", ("nowhere",))])
  assert list(found) == ["a"]
  assert found["a"][2] == pytest.approx(50.5)


def test_the_best_mixture_is_found():
  rng = np.random.default_rng(0)
  corners = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0), (0.5, 0, 0.5)]
  inner = [(1 / 3, 1 / 3, 1 / 3), (0.6, 0.2, 0.2), (0.2, 0.6, 0.2)]
  shares = np.array([*corners, (0, 0.5, 0.5), *inner])
  best = np.array([0.5, 0.3, 0.2])
  # A quadratic is within the model: without noise its top is found.
  value = 80 - 40 * ((shares - best[None, :]) ** 2).sum(1)
  exact = recommend(shares, value, np.full(len(value), 1e-9))
  np.testing.assert_allclose(exact.shares, best, atol=0.03)
  assert exact.value == pytest.approx(80, abs=0.1)
  assert exact.error < 1e-6 < exact.spread
  noisy = recommend(shares, value + rng.normal(size=9), np.ones(9))
  for low, share, high in zip(noisy.low, best, noisy.high, strict=True):
    assert low - 0.05 <= share <= high + 0.05
  with pytest.raises(UserError, match="needs 6"):
    recommend(shares[:4], value[:4], np.ones(4))
