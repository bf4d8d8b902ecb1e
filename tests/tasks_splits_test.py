"""Finding the file of a split, and the public files themselves."""

import json

import pytest

from instructedit_jax.errors import UserError
from instructedit_jax.tasks import hub, report
from instructedit_jax.tasks.record import TASKS
from instructedit_jax.tasks.splits import find_file, load_split

FACT = {
  "subject": "Ann",
  "prompt": "The gender of Ann is ",
  "target_new": " male",
  "ground_truth": "female",
}
COUNTS = {
  ("counterfact", "train"): 1427,
  ("counterfact", "test"): 839,
  ("wikirecent", "train"): 570,
  ("wikirecent", "test"): 1266,
  ("convsent", "train"): 799,
  ("convsent", "test"): 800,
  ("zsre", "train"): 998,  # two of the 1000 have an empty target
  ("zsre", "test"): 1037,
}


def write(folder, content, name="data.json"):
  path = folder / name
  text = content if isinstance(content, str) else json.dumps(content)
  path.write_text(text, encoding="utf-8")
  return path


def fields_of(record):
  yield record.prompt
  yield record.target
  yield from record.rephrases
  for probe in record.locality + record.portability:
    yield from (probe.kind, probe.prompt, *probe.answers)


def test_find_file_prefers_and_complains(tmp_path):
  with pytest.raises(UserError, match="no such folder"):
    find_file(tmp_path / "none", "zsre", "train")
  with pytest.raises(UserError, match="no file for task 'zsre'"):
    find_file(tmp_path, "zsre", "train")
  with pytest.raises(UserError, match="Known tasks"):
    find_file(tmp_path, "zrse", "train")
  deep = tmp_path / "benchmark" / "Convsent"
  deep.mkdir(parents=True)
  val = write(deep, [], "blender_val.json")
  assert find_file(tmp_path, "convsent", "train") == val
  train = write(tmp_path, [], "convsent_train.json")
  assert find_file(str(tmp_path), "convsent", "train") == train
  assert find_file(train, "convsent", "test") == train
  write(tmp_path, [], "benchmark_train_cf.json")
  write(tmp_path, [], "other_train_cf.json")
  with pytest.raises(UserError, match="several files"):
    find_file(tmp_path, "counterfact", "train")
  own = write(tmp_path, [], "hours_train.json")
  assert find_file(tmp_path, "hours", "train") == own


def test_a_file_that_stands_in_for_training_is_told(shared, caplog):
  load_split(shared / "data", "convsent", "test")
  assert not caplog.records
  load_split(shared / "data", "convsent", "val")
  assert "have seen these records" in caplog.text


def test_the_hub_is_asked_and_its_failure_told(tmp_path, monkeypatch):
  write(tmp_path, [FACT], "train_cf.json")
  asked = []

  def download(repository, **options):
    asked.append((repository, options["repo_type"]))
    return str(tmp_path)

  huggingface_hub = pytest.importorskip("huggingface_hub")
  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  records, _ = load_split("hub", "counterfact", "train")
  assert len(records) == 1
  assert asked == [("zjunlp/KnowEdit", "dataset")]

  def fail(*args, **options):
    raise OSError("no route to host\nmore")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
  with pytest.raises(UserError, match=r"hub \(no route to host\)"):
    hub.snapshot()


def test_reports_of_several_splits(tmp_path):
  write(tmp_path, [FACT], "wiki_counterfact_train.json")
  found, errors = report.reports(str(tmp_path), ["counterfact"], ["train", "x"])
  assert [r.kept for r in found] == [1]
  assert len(errors) == 1
  assert errors[0].startswith("counterfact/x: ")


@pytest.mark.parametrize(("task", "split"), COUNTS)
def test_real_files(shared, task, split):
  records, report = load_split(shared / "data", task, split)
  assert len(records) == COUNTS[task, split] == report.kept
  assert len({record.id for record in records}) == len(records)
  for record in records:
    assert record.subject in record.prompt
    assert all(text and text == text.strip() for text in fields_of(record))
  # One-character answers exist (a number of children, a letter), but never as
  # the first letter of the text that stands in the file.
  source = json.loads(
    find_file(shared / "data", task, split).read_text("utf-8")
  )
  written = set(strings(source))
  for record in records:
    for probe in record.locality + record.portability:
      assert written.issuperset(probe.answers)


def strings(tree):
  if isinstance(tree, str):
    yield tree.strip()
  elif tree is not None and not isinstance(tree, int):
    for child in tree.values() if isinstance(tree, dict) else tree:
      yield from strings(child)


def test_real_flat_files(shared):
  folder = shared / "data" / "counterfact_flat"
  for split, count in (("train", 10000), ("val", 1919), ("test", 10000)):
    records, report = load_split(folder, "counterfact", split)
    assert len(records) == count
    assert report.clean
    assert all(len(r.locality) == len(r.rephrases) == 1 for r in records)


def test_real_drops_are_the_known_ones(shared):
  drops = {}
  for task in TASKS:
    for split in ("train", "test"):
      report = load_split(shared / "data", task, split)[1]
      drops[task, split] = (
        sum(report.dropped_records.values()),
        sum(report.dropped_probes.values()),
      )
  assert {key: value for key, value in drops.items() if any(value)} == {
    ("wikirecent", "train"): (0, 7),
    ("zsre", "train"): (2, 0),
  }
