"""What a run leaves behind, whenever it ends."""

import dataclasses
import gc
import json
import weakref

import pytest

from instructedit_jax.checkpoints import CheckpointStore
from instructedit_jax.editors.trained import load_editor
from instructedit_jax.errors import Stopped, UserError
from instructedit_jax.metric_writer import read_metrics
from instructedit_jax.parallel.processes import StopRequest
from instructedit_jax.training import loop
from instructedit_jax.training.data import Episodes
from instructedit_jax.training.workdir import claim
from tests import tiny_run


def test_a_start_that_failed_claims_nothing(tmp_path):
  wrong = tiny_run.config(model="random:tiny-lama")
  with pytest.raises(UserError, match="tiny-lama"):
    loop.train(wrong, tmp_path)
  right = {"model": "random:tiny-llama"}
  claim(tmp_path, right, (), 9)
  assert json.loads((tmp_path / "config.json").read_text()) == right


@pytest.mark.parametrize("left", ["checkpoints/3", "editor"])
def test_a_run_that_left_something_keeps_its_folder(tmp_path, left):
  claim(tmp_path, {"seed": 0, "steps": 1}, (), 9)
  (tmp_path / left).mkdir(parents=True)
  claim(tmp_path, {"seed": 0, "steps": 2}, ("steps",), 9)
  with pytest.raises(UserError, match="different: seed"):
    claim(tmp_path, {"seed": 1, "steps": 2}, ("steps",), 9)


def test_a_longer_run_is_not_taken_for_a_shorter_one(tmp_path):
  (tmp_path / "checkpoints" / "300").mkdir(parents=True)
  claim(tmp_path, {"steps": 300}, ("steps",), 300)
  short = tiny_run.config(steps=100)
  with pytest.raises(UserError, match="300 steps, more than 100"):
    claim(tmp_path, {"steps": 100}, ("steps",), 100)
  assert json.loads((tmp_path / "config.json").read_text()) == {"steps": 300}
  (tmp_path / "config.json").unlink()
  with pytest.raises(UserError, match="300 steps, more than 100"):
    loop.train(short, tmp_path)


def _last_step(folder):
  names = [path.name for path in (folder / "checkpoints").iterdir()]
  return max(int(name) for name in names if name.isdigit())


@pytest.mark.slow
def test_a_run_out_of_patience_does_not_go_on(tmp_path, monkeypatch):
  monkeypatch.setattr(loop._Run, "_validate", lambda *_: {"loss": 1.0})
  config, model = tiny_run.config(validate_every=1), tiny_run.model()
  tired = dataclasses.replace(config, patience=1)
  for _ in range(2):  # the same command again
    editor = loop.train(tired, tmp_path, model)
    assert editor.details["validation_loss"] == 1.0
    assert _last_step(tmp_path) == 2
  loop.train(dataclasses.replace(config, steps=3), tmp_path, model)
  assert _last_step(tmp_path) == 3


@pytest.mark.slow
def test_a_run_stopped_before_any_validation(tmp_path, monkeypatch):
  config, model = tiny_run.config(), tiny_run.model()
  save, saved = CheckpointStore.save, []

  def checked(store, step, *rest):
    """A run that is killed after this goes on with the next step."""
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, step + 1))
    saved.append(step)
    return save(store, step, *rest)

  monkeypatch.setattr(CheckpointStore, "save", checked)
  with monkeypatch.context() as asked:  # as SIGTERM does
    asked.setattr(StopRequest, "asked", lambda self, step: step == 2)
    with pytest.raises(Stopped, match="stopped by request after step 2"):
      loop.train(config, tmp_path, model)
  assert saved == [2]
  # Told that this was all: the editor is there, its loss is not known.
  loop.train(dataclasses.replace(config, steps=2), tmp_path, model)
  assert load_editor(tmp_path).details["validation_loss"] is None


@pytest.mark.slow
def test_a_finished_run_leaves_nothing_in_memory(tmp_path, monkeypatch):
  """A process trains many: each has a model and gigabytes of states."""
  made = []

  def keep(self, model, config, records):
    init(self, model, config, records)
    made.extend(map(weakref.ref, (self, model, self.cache)))

  init = Episodes.__init__
  monkeypatch.setattr(Episodes, "__init__", keep)
  loop.train(tiny_run.config(), tmp_path)
  gc.collect()
  assert [ref() for ref in made] == [None] * 3
