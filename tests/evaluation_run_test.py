"""A whole evaluation: its files, and taking it up again."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from instructedit_jax import report
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import Options, Row, chunks
from instructedit_jax.evaluation.kept import Kept
from instructedit_jax.evaluation.results import RecordResult, Results
from instructedit_jax.evaluation.run import run
from instructedit_jax.evaluation.settings import Settings
from instructedit_jax.models.language_model import load_model
from tests import tiny

pytestmark = pytest.mark.slow  # the shared run takes most of it
ROOT = pathlib.Path(__file__).resolve().parents[1]
KEYS = ["task", "editor", "query", "metric", "value", "low", "high", "n"]
OPTIONS = Options(free_limit=1, fluency_limit=1, fluency_tokens=6, resamples=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A saved editor for random:tiny-llama."""
  path = tmp_path_factory.mktemp("editors") / "run" / "editor"
  tiny.editor(load_model("random:tiny-llama"), "instructedit").save(path)
  return path.parent


def _settings(folder, out, **changes) -> Settings:
  values = {
    "editors": ("base", str(folder)),
    "out": str(out),
    "tasks": ("counterfact",),
    "limit": 2,
    "options": OPTIONS,
    "command": "test",
  }
  return Settings(**values | changes)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
  out = tmp_path_factory.mktemp("finished")
  return out, run(_settings(folder, out))


def test_every_file_is_there_and_valid(finished):
  out, results = finished
  assert [(r.editor, r.query) for r in results] == [
    ("base", "bare"),
    ("base", "instructed"),
    ("instructedit", "bare"),
    ("instructedit", "instructed"),
  ]
  summary = json.loads((out / "summary.json").read_text())
  assert all(list(row) == KEYS for row in summary)
  assert all(row["low"] <= row["value"] <= row["high"] for row in summary)
  lines = (out / "records.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert len(records) == 8
  assert {"editor", "query", "id", "items", "scores"} <= set(records[0])
  table = (out / "table.md").read_text()
  assert table.startswith("# Edits of random:tiny-llama")
  assert table.index("| bare ") < table.index("| instructed ")
  assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
  assert not [p for p in out.rglob("*") if p.name.startswith(".")]


def test_the_protocol_says_what_was_measured(finished):
  out, _ = finished
  protocol = json.loads((out / "protocol.json").read_text())
  assert protocol["command"] == "test"
  stamp = protocol["chunks"][2]["protocol"]
  assert stamp["editor"]["method"] == "instructedit"
  assert len(stamp["editor"]["sha256"]) == 64
  assert stamp["model"]["name"] == "random:tiny-llama"
  assert len(stamp["model"]["fingerprint"]) == 64
  assert stamp["data"]["file"] == "counterfact_test.json"
  assert stamp["data"]["records"] == 2
  assert stamp["options"]["instruction"] == "held_out:0"
  assert "aggregation" in stamp["options"]
  assert {"jax", "instructedit_jax"} <= set(stamp["versions"])


def test_finished_chunks_are_not_evaluated_again(finished, folder, monkeypatch):
  out, results = finished
  before = (out / "summary.json").read_bytes()

  def fail(*_, **__):
    raise AssertionError("evaluated again")

  monkeypatch.setattr(chunks, "evaluate", fail)
  assert run(_settings(folder, out, command="other")) == results
  assert (out / "summary.json").read_bytes() == before
  with pytest.raises(AssertionError, match="evaluated again"):
    run(_settings(folder, out, limit=1))


def test_an_interrupted_run_keeps_what_it_had(
  finished, folder, tmp_path, monkeypatch
):
  real, asked = chunks.evaluate, []

  def interrupted(*arguments, **options):
    asked.append(options["query"])
    if len(asked) == 2:
      raise KeyboardInterrupt
    return real(*arguments, **options)

  monkeypatch.setattr(chunks, "evaluate", interrupted)
  settings = _settings(folder, tmp_path, editors=(str(folder),))
  with pytest.raises(KeyboardInterrupt):
    run(settings)
  assert not (tmp_path / "summary.json").exists()
  again = run(settings)
  assert asked == ["bare", "instructed", "instructed"]
  assert [r.rows() for r in again] == [r.rows() for r in finished[1][2:]]


def test_an_edit_is_made_once_for_all_query_styles(
  folder, finished, tmp_path, monkeypatch
):
  made = []
  propose = TrainedEditor.propose_each

  def counted(self, model, requests, cache=None):
    made.append([request.prompt for request in requests])
    return propose(self, model, requests, cache)

  monkeypatch.setattr(TrainedEditor, "propose_each", counted)
  # Shared: prefix states of another packing differ in their last bits.
  loaded = {}
  results = run(_settings(folder, tmp_path, editors=(str(folder),)), loaded)
  assert [r.query for r in results] == ["bare", "instructed"]
  assert len(made) == 1
  # Those of a run whose edits were not kept (one query style at a time).
  for query, got in zip(("bare", "instructed"), results, strict=True):
    out = tmp_path / query
    alone = run(
      _settings(folder, out, editors=(str(folder),), queries=(query,)), loaded
    )
    assert alone[0].records == got.records
  assert len(made) == 3


def test_edits_are_kept_as_often_as_asked_for_and_no_longer():
  model = tiny.model()
  inner, calls = tiny.editor(model, "mend"), []

  class Counted:
    def propose_each(self, model, requests, cache=None):
      calls.append(requests)
      return inner.propose_each(model, requests, cache)

  first, second = ([Request("The sky is", to)] for to in ("green", "red"))
  kept = Kept(Counted(), times=2)
  edits = [kept.propose_each(model, first) for _ in range(3)]
  assert edits[0] is edits[1]
  assert len(calls) == 2
  assert edits[2] is not edits[0]  # asked for a third time: made again
  assert kept.propose_each(model, second) is not edits[2]
  small = Kept(Counted(), times=2, max_bytes=0)
  calls.clear()
  for _ in range(2):
    small.propose_each(model, first)
  assert len(calls) == 2  # no room: made each time
  # One of two query styles was evaluated before: nothing is held for it.
  once = Kept(Counted(), times=2)
  once.skip()
  once.propose_each(model, first)
  assert not once._held
  left = Kept(Counted(), times=2)
  left.propose_each(model, first)
  free = left._free
  left.clear()
  assert left._free > free
  assert not left._held


def test_a_damaged_chunk_is_made_again(folder, tmp_path):
  settings = _settings(
    folder,
    tmp_path,
    editors=("base",),
    model="random:tiny-llama",
    queries=("bare",),
    limit=1,
  )
  first = run(settings)
  (chunk,) = (tmp_path / "chunks").iterdir()
  chunk.write_text(chunk.read_text()[:100])
  assert run(settings) == first
  json.loads(chunk.read_text())


def test_editors_of_one_method_are_told_apart(folder, tmp_path):
  second = tmp_path / "second"
  tiny.editor(load_model("random:tiny-llama"), "instructedit", 0.5).save(second)
  names = list(chunks._editors((str(folder), str(second), "base")))
  assert names == [
    f"instructedit ({folder})",
    f"instructedit ({second})",
    "base",
  ]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"editors": ()}, "name an editor's folder"),
    ({"editors": ("missing",)}, "missing"),
    ({"editors": ("base",)}, "--model"),
    ({"model": "random:tiny-gpt2"}, "another model"),
    ({"tasks": ("nonsense",)}, "no file for task 'nonsense'"),
    ({"data": "/no/such/folder"}, "no such folder"),
    ({"limit": 0}, "at least 1"),
    ({"queries": ("plain",)}, "must be one of"),
    ({"options": Options(instruction="seen:99")}, "no instruction 'seen:99'"),
  ],
)
def test_mistakes_are_told(folder, tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    run(_settings(folder, tmp_path, **changes))


def test_tables_put_plain_questions_first():
  rows = [
    Row("t", "mend", "instructed", "reliability_em", 90.0, 80.0, 95.0, 10),
    Row("t", "mend", "bare", "reliability_em", 50.0, 40.0, 60.0, 10),
    Row("t", "mend", "bare", "locality_kl", 0.01234, 0.01, 0.02, 9),
  ]
  lines = report.markdown(rows).splitlines()
  assert lines[0] == "## t"
  assert lines[2].split("|")[3].strip() == "reliability_em"
  assert "bare" in lines[4]
  assert "50.0 [40.0, 60.0]" in lines[4]
  assert "90.0 [80.0, 95.0]" in lines[5]
  assert lines[6].split("|")[3].strip() == "10"
  assert any("0.0123 [0.0100, 0.0200]" in line for line in lines)
  assert len({len(line) for line in lines[2:7]}) == 1


def test_examples_are_taken_in_turn_and_aligned():
  def result(editor: str, count: int) -> Results:
    item = {
      "metric": "reliability",
      "free_before": "old\x07",
      "free_after": "n",
    }
    records = [
      RecordResult(str(i), "t", "long " * 20 + str(i), "new", "", {}, [item])
      for i in range(count)
    ]
    return Results(editor, "bare", records)

  lines = report.examples([result("a", 3), result("bb", 1)], 3).splitlines()
  assert [line.split()[0] for line in lines] == ["a", "bb", "a"]
  assert all("-> old· | n (new)" in line for line in lines)
  assert len({line.index("->") for line in lines}) == 1
  assert report.examples([Results("a", "bare")], 3) == ""


def test_the_command(folder, tmp_path):
  result = subprocess.run(
    [
      *(sys.executable, "-m", "instructedit_jax.evaluate"),
      *(f"--editor={folder}", "--tasks=counterfact", "--limit=1"),
      *("--queries=bare", "--fluency_limit=0", f"--out={tmp_path / 'o'}"),
    ],
    cwd=ROOT,
    env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert "reliability_em" in result.stdout
  assert "prompt -> before | after (target)" in result.stdout
  assert "1/1 100.0%" in result.stderr
  command = json.loads((tmp_path / "o" / "protocol.json").read_text())
  assert command["command"].startswith("python -m instructedit_jax.evaluate")


def test_instructed_questions_need_an_instruction():
  options = Options(instruction="none")
  with pytest.raises(UserError, match="--queries=bare"):
    Settings(("base",), "out", options=options)
  Settings(("base",), "out", queries=("bare",), options=options)
