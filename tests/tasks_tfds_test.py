"""The TFDS builder gives back the very records it was given."""

import json
import sys

import pytest

pytest.importorskip("tensorflow_datasets")

from instructedit_jax.errors import UserError
from instructedit_jax.tasks.record import TASKS
from instructedit_jax.tasks.splits import load_split
from instructedit_jax.tasks.tfds_builders import EditTasks, tfds_records

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("task", TASKS)
def test_embedded_records_round_trip(task, tmp_path):
  for split in ("train", "test"):
    assert (
      tfds_records(task, split, tmp_path)
      == (load_split("embedded", task, split)[0])
    )


def test_real_records_round_trip(shared, tmp_path):
  folder = str(shared / "data")
  records = tfds_records("wikirecent", "train", tmp_path, folder)
  assert records == load_split(folder, "wikirecent", "train")[0]


def write(folder, target):
  raw = {"subject": "Ann", "prompt": "Ann is", "target_new": target}
  path = folder / "wiki_counterfact_train.json"
  path.write_text(json.dumps([raw]), encoding="utf-8")


def test_changed_files_are_read_anew(tmp_path):
  for target in ("Ä\u200b🙂", "b"):
    write(tmp_path, target)
    (record,) = tfds_records(
      "counterfact", "train", tmp_path / "tfds", str(tmp_path)
    )
    assert record.target == target
    assert record.locality == ()


def test_bad_requests(tmp_path):
  for task, split in (("zrse", "train"), ("zsre", "dev")):
    with pytest.raises(UserError, match="No TFDS config"):
      tfds_records(task, split, tmp_path)
  write(tmp_path, "b")
  with pytest.raises(UserError, match="no file for task 'counterfact'"):
    tfds_records("counterfact", "test", tmp_path / "t", str(tmp_path))


def test_configs_and_no_tensorflow():
  assert set(EditTasks.builder_configs) == set(TASKS)
  assert "tensorflow" not in sys.modules
