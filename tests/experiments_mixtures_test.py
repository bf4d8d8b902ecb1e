"""Mixtures of training tasks: what was tried, and the pictures of it."""

import types

import ml_collections
import numpy as np
import pytest
from matplotlib.axes import Axes

from instructedit_jax.errors import UserError
from instructedit_jax.experiments import mixtures
from instructedit_jax.experiments.proportions import Recommendation
from instructedit_jax.reports.aggregate import HARMONIC, Number

WEIGHTS = {
  "even": {"a": 2, "b": 2, "c": 2},
  "first": {"a": 3},
  "rest": {"b": 1, "c": 3},
}


def _setup(weights):
  editors = {name: {"tasks": tasks} for name, tasks in weights.items()}
  config = ml_collections.ConfigDict({"editors": editors, "queries": ("bare",)})
  return types.SimpleNamespace(config=config, tasks=("zsre",))


def _number(editor, value, metric=HARMONIC, query="bare"):
  low, high = value - 1.96, value + 1.96
  return Number("zsre", query, editor, metric, value, low, high, 9, (value,))


@pytest.fixture
def texts(monkeypatch):
  """Everything written beside a point."""
  found = []
  annotate = Axes.annotate

  def keep(axes, text, *args, **kwargs):
    found.append(text)
    return annotate(axes, text, *args, **kwargs)

  monkeypatch.setattr(Axes, "annotate", keep)
  return found


def test_shares_are_of_the_editors_that_were_measured():
  values = [
    _number("rest", 40),
    _number("even", 60),
    _number("even", 99, metric="reliability_em"),
    _number("even", 98, query="instructed"),
    _number("elsewhere", 97),  # given, not of the configuration
  ]
  tasks, goals = mixtures.tried(_setup(WEIGHTS), values)
  assert sorted(tasks) == ["a", "b", "c"]
  assert list(goals) == ["zsre"]
  assert goals["zsre"].names == ["rest", "even"]
  columns = dict(zip(tasks, goals["zsre"].shares.T, strict=True))
  np.testing.assert_allclose(columns["a"], [0, 1 / 3])
  np.testing.assert_allclose(columns["c"], [3 / 4, 1 / 3])
  np.testing.assert_allclose(goals["zsre"].deviations, 1)
  with pytest.raises(UserError, match="nothing to fit"):
    mixtures.tried(_setup(WEIGHTS), values[-1:])


def test_the_best_that_was_tried_stands_beside_the_fit():
  goals = {"zsre": mixtures.Tried(["x", "y"], np.eye(2), [3.0, 7.0], [1, 1])}
  fit = Recommendation([0.25, 0.75], [0, 0.5], [0.5, 1], 6.5, 0.5, 2.0)
  line = mixtures.text(["a", "b"], goals, {"zsre": fit}).splitlines()[-1]
  cells = [cell.strip() for cell in line.strip("|").split("|")]
  assert cells == [
    "zsre",
    "25 % [0, 50]",
    "75 % [50, 100]",
    "6.5; 0.50 against 2.00",
    "y, 7.0",
  ]


def test_a_triangle_shows_every_mixture(tmp_path, texts):
  values = [_number(name, 10.0 * i) for i, name in enumerate(WEIGHTS)]
  tasks, goals = mixtures.tried(_setup(WEIGHTS), values)
  mixtures.draw(tasks, goals, tmp_path / "mixtures.png")
  assert (tmp_path / "mixtures.png").read_bytes().startswith(b"\x89PNG")
  assert sorted(texts) == sorted(["0.0", "10.0", "20.0", *tasks])


def test_there_is_no_triangle_of_two(tmp_path, texts):
  two = {"x": {"a": 1, "b": 1}, "y": {"a": 1}}
  tasks, goals = mixtures.tried(_setup(two), [_number("x", 1.0)])
  mixtures.draw(tasks, goals, tmp_path / "mixtures.png")
  assert not texts
  assert not list(tmp_path.iterdir())
