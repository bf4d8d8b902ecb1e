"""Figures: drawn whole from whatever rows there are."""

import json
import math

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from instructedit_jax import figures
from instructedit_jax.errors import UserError
from instructedit_jax.experiments import pictures


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
  """The figures saved during a test."""
  kept: list[Figure] = []
  save = Figure.savefig

  def keep(self, *args, **kwargs):
    kept.append(self)
    save(self, *args, **kwargs)

  monkeypatch.setattr(Figure, "savefig", keep)
  return kept


def _metrics(tmp_path, rows):
  path = tmp_path / "metrics.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def _is_a_picture(path) -> bool:
  pixels = matplotlib.image.imread(path)
  return pixels.shape[0] > 100 and len(np.unique(pixels)) > 10


def test_every_quantity_of_a_run_gets_a_panel(tmp_path, drawn):
  rows = [
    {
      "step": step,
      "train/edit_loss": math.exp(-step / 20),
      "train/locality_kl": 0.0 if step == 3 else 0.1,
      "train/token_accuracy": step / 100,
      "validation/locality_agreement": "nan" if step == 5 else 0.9,
      "train/other": 1.0,
    }
    for step in range(100)
  ]
  out = tmp_path / "deep" / "curves.png"
  figures.learning_curves(_metrics(tmp_path, rows), out, "a run")
  assert _is_a_picture(out)
  loss, kl, accuracy, agreement = drawn[0].axes
  assert [a.get_title(loc="left") for a in drawn[0].axes] == list(
    figures.CURVES.values()
  )
  assert (loss.get_yscale(), kl.get_yscale()) == ("log", "linear")
  assert accuracy.get_ylim() == (-0.02, 1.02)
  assert 5 not in agreement.lines[0].get_xdata()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_panels_without_numbers_are_left_out(tmp_path, drawn, count):
  names = list(figures.CURVES)[:count]
  rows = [{"step": 1} | {f"validation/{n}": 0.5 for n in names}]
  figures.learning_curves(_metrics(tmp_path, rows), tmp_path / "c.png")
  shown = [axes for axes in drawn[0].axes if axes.get_visible()]
  assert len(shown) == count


def test_nothing_to_draw_is_an_error_and_leaves_no_file(tmp_path):
  path = _metrics(tmp_path, [{"step": 1, "loss": 2.0}])
  with pytest.raises(UserError, match="nothing to draw"):
    figures.learning_curves(path, tmp_path / "c.png")
  with pytest.raises(UserError, match="nothing to draw"):
    figures.bars([], tmp_path / "c.png")
  assert not (tmp_path / "c.png").exists()


def _summary(**changes):
  row = {
    "task": "zsre",
    "editor": "mend",
    "query": "plain",
    "metric": "locality",
    "value": 0.5,
    "low": 0.4,
    "high": 0.7,
    "n": 10,
  }
  return row | changes


def test_bars_have_the_heights_and_intervals_of_the_rows(tmp_path, drawn):
  rows = [
    _summary(),
    _summary(editor="ours", value=0.9, low=0.8, high=0.95),
    _summary(editor="ours", query="instructed", value=0.7, low=0.7, high=0.7),
    _summary(task="recent", metric="fluency", value=6.0, low=5.0, high=7.0),
    _summary(task="recent", n=12),
  ]
  figures.bars(rows, tmp_path / "b.png", "title")
  assert _is_a_picture(tmp_path / "b.png")
  panels = {
    (i, j): drawn[0].axes[2 * i + j] for i in range(2) for j in range(2)
  }
  heights = [bar.get_height() for bar in panels[0, 0].patches]
  assert heights == [0.5, 0.9, 0.7]
  whiskers = panels[0, 0].collections[0].get_segments()
  np.testing.assert_allclose(np.asarray(whiskers)[0, :, 1], [0.4, 0.7])
  assert panels[0, 0].get_ylim() == (0, 1.02)
  assert panels[0, 0].get_ylabel() == "zsre\nn = 10"
  assert panels[1, 0].get_ylabel() == "recent\nn = 10–12"
  assert panels[1, 1].get_ylim()[1] >= 7
  assert [text.get_text() for text in panels[0, 1].texts] == ["not asked"]
  assert not panels[0, 0].texts


def test_smoothing_keeps_constants_and_the_mean_of_a_line():
  assert figures._smooth([2.0] * 300) == pytest.approx([2.0] * 300)
  line = [float(i) for i in range(300)]
  assert figures._smooth(line)[10:-10] == pytest.approx(line[10:-10])


def test_a_line_looks_the_same_in_all_panels(tmp_path, drawn):
  """Also where a panel lacks the lines before it."""
  points = [(1, 5, 4, 6), (2, 7, 6, 8)]
  both = {"first": points, "second": points}
  panels = {"all": both, "one": {"second": points}}
  pictures.lines(panels, tmp_path / "lines.png", "title", "tasks")
  whole, one = drawn[0].axes
  colours = [
    line[0].get_color() for line in (*whole.containers, *one.containers)
  ]
  assert colours[0] != colours[1] == colours[2]
  assert list(one.get_xticks()) == [1, 2]


def test_boxes_share_a_scale(tmp_path, drawn):
  panels = {
    "small": {"a": [1, 2, 3, 4, 5]},
    "large": {"a": [10, 20, 30, 40, 50]},
  }
  pictures.boxes(panels, tmp_path / "boxes.png", "title", "norm")
  small, large = drawn[0].axes
  assert small.get_ylim() == large.get_ylim()
  assert small.get_ylim()[0] < 1 < 50 < small.get_ylim()[1]


def test_many_editors_look_different(tmp_path, drawn):
  count = 3 * len(figures.COLOURS)
  rows = [_summary(editor=str(i)) for i in range(count)]
  figures.bars(rows, tmp_path / "bars.png")
  bars = drawn[0].axes[0].patches
  looks = [(bar.get_facecolor(), bar.get_hatch()) for bar in bars]
  assert len(set(looks)) == len(looks) == count
