"""What a report says: runs, intervals, marks and protocols."""

import csv
import json

import numpy as np
import pytest

from instructedit_jax.errors import UserError
from instructedit_jax.metrics import summary
from instructedit_jax.reports import Settings, build
from instructedit_jax.reports.aggregate import (
  Number,
  _harmonic,
  _overall,
  _sample,
  numbers,
)
from instructedit_jax.reports.folders import read_folders
from instructedit_jax.reports.protocols import flat
from instructedit_jax.reports.runs import runs_of
from instructedit_jax.reports.tables import tables
from tests import results_folder


def _numbers(*folders, **options):
  runs, notes = runs_of(read_folders(folders), **options)
  return {
    (n.task, n.query, n.editor, n.metric): n for n in numbers(runs)
  }, notes


def test_one_folder_gives_the_numbers_of_its_own_summary(tmp_path):
  folder = results_folder.write(tmp_path / "a", count=20)
  found, notes = _numbers(folder)
  values = [
    json.loads(line)["scores"]["reliability_em"]
    for line in (folder / "records.jsonl").read_text().splitlines()
    if '"mend"' in line and "zsre/" in line
  ]
  number = found["zsre", "bare", "mend", "reliability_em"]
  assert number.value == pytest.approx(np.mean(values))
  assert (number.low, number.high) == summary.interval(
    values, resamples=200, seed=0
  )
  assert number.records == 20
  assert len(number.runs) == 1
  assert notes == []


def test_harmonic_means_of_tasks_and_of_all(tmp_path):
  found, _ = _numbers(results_folder.write(tmp_path / "a", count=40))
  each = []
  for task in ("zsre", "counterfact"):
    parts = [
      found[task, "bare", "mend", metric].value
      for metric in ("reliability_em", "generalization_em", "locality_token")
    ]
    number = found[task, "bare", "mend", "harmonic_mean"]
    assert number.value == pytest.approx(3 / sum(1 / p for p in parts))
    assert number.low < number.value < number.high
    each.append(number)
  whole = found["all tasks", "bare", "mend", "harmonic_mean"]
  assert whole.value == pytest.approx(np.mean([n.value for n in each]))
  assert whole.records == 80
  width = max(n.high - n.low for n in each)
  assert whole.high - whole.low < width  # twice the records


def test_an_editor_without_all_tasks_has_no_mean_over_them(tmp_path):
  a = results_folder.write(tmp_path / "a", editors=("mend",))
  b = results_folder.write(tmp_path / "b", editors=("ke",), tasks=("zsre",))
  found, _ = _numbers(a, b)
  assert ("all tasks", "bare", "mend", "harmonic_mean") in found
  assert ("all tasks", "bare", "ke", "harmonic_mean") not in found


def test_seeds_are_runs_of_one_editor(tmp_path):
  folders = [
    results_folder.write(tmp_path / f"s{seed}", seed=seed, count=30)
    for seed in range(3)
  ]
  found, _ = _numbers(*folders)
  number = found["zsre", "bare", "mend", "generalization_em"]
  alone = [
    _numbers(folder)[0]["zsre", "bare", "mend", "generalization_em"].value
    for folder in folders
  ]
  assert number.runs == pytest.approx(alone)
  assert number.value == pytest.approx(np.mean(alone))
  assert number.records == 30
  apart, _ = _numbers(*folders, separate=True)
  assert ("zsre", "bare", "mend (s1)", "generalization_em") in apart


def test_intervals_over_runs_have_the_width_that_theory_says():
  rng = np.random.default_rng(0)
  # Runs differ by a constant: records then add nothing of their own.
  values = np.repeat(np.array([[10.0], [20.0], [60.0]]), 50, 1)
  draws = _sample(values, 0, 20_000).draws
  expected = np.var(values[:, 0], ddof=1) / 3
  assert np.var(draws) == pytest.approx(expected, rel=0.05)
  # One run: the variance of a mean.
  values = rng.normal(size=(1, 200))
  draws = _sample(values, 0, 20_000).draws
  assert np.var(draws) == pytest.approx(np.var(values) / 200, rel=0.05)


def test_a_good_run_is_good_on_all_tasks():
  """Averaging over tasks does not make few runs many."""
  rng = np.random.default_rng(0)
  runs = np.array([[30.0], [50.0], [70.0]]) + rng.normal(size=(3, 50))
  one = _harmonic([_sample(runs, 0, 5000)] * 2)
  [overall] = _overall("mend", "abcd", {(t, "bare"): one for t in "abcd"})
  alone = one.number(("a", "bare"), "mend", "harmonic_mean")
  assert overall.value == pytest.approx(alone.value)
  width = alone.high - alone.low
  assert overall.high - overall.low == pytest.approx(width, rel=0.05)


def test_records_that_lack_a_metric_do_not_count(tmp_path):
  def lose(record):
    if record["id"].endswith("/0"):
      del record["scores"]["portability_em"]

  found, _ = _numbers(results_folder.write(tmp_path / "a", change=lose))
  assert found["zsre", "bare", "mend", "portability_em"].records == 5
  assert found["zsre", "bare", "mend", "reliability_em"].records == 6


def test_the_same_run_counts_once(tmp_path):
  a = results_folder.write(tmp_path / "a")
  b = results_folder.write(tmp_path / "b")
  found, notes = _numbers(a, b)
  assert len(found["zsre", "bare", "mend", "reliability_em"].runs) == 1
  assert any("counts once" in note for note in notes)


def test_a_run_may_be_spread_over_folders(tmp_path):
  a = results_folder.write(tmp_path / "a", tasks=("zsre",), digest="d")
  b = results_folder.write(tmp_path / "b", tasks=("counterfact",), digest="d")
  found, notes = _numbers(a, b)
  assert ("all tasks", "bare", "mend", "harmonic_mean") in found
  assert notes == []


def test_other_protocols_are_shown_apart_and_warned_of(tmp_path):
  a = results_folder.write(tmp_path / "a")
  b = results_folder.write(
    tmp_path / "b", seed=1, options={"instruction": "seen:0"}
  )
  built = build(Settings((a, b), tmp_path / "out"))
  assert {n.editor for n in built.numbers} == {
    "mend [instruction=held_out:0]",
    "mend [instruction=seen:0]",
    "instructedit [instruction=held_out:0]",
    "instructedit [instruction=seen:0]",
  }
  (warning,) = built.warnings
  assert "options.instruction differs: held_out:0 in a; seen:0 in b" in warning
  for name in ("report.html", "report.md"):
    text = (tmp_path / "out" / name).read_text()
    assert "cannot be compared" in text
    assert "options.instruction differs" in text


def test_other_records_are_no_runs_of_the_same(tmp_path):
  a = results_folder.write(tmp_path / "a", count=4)
  b = results_folder.write(tmp_path / "b", count=6, seed=1)
  built = build(Settings((a, b), tmp_path / "out"))
  assert {n.editor for n in built.numbers} == {
    *("mend [a]", "mend [b]", "instructedit [a]", "instructedit [b]")
  }
  assert any("data.records of zsre" in w for w in built.warnings)


def test_equal_protocols_raise_no_warning(tmp_path):
  folders = [
    results_folder.write(tmp_path / name, seed=seed)
    for seed, name in enumerate("ab")
  ]
  raw = json.loads((folders[1] / "protocol.json").read_text())
  for chunk in raw["chunks"]:
    chunk["protocol"]["versions"]["jax"] = "0.11.0"
  (folders[1] / "protocol.json").write_text(json.dumps(raw))
  built = build(Settings(folders, tmp_path / "out"))
  assert built.warnings == []
  assert any("versions.jax differs" in note for note in built.notes)
  assert "cannot be compared" not in (tmp_path / "out/report.html").read_text()


def test_editors_can_be_renamed_into_runs(tmp_path):
  folder = results_folder.write(
    tmp_path / "a", editors=("mend (runs/0)", "mend (runs/1)", "base")
  )
  raw = json.loads((folder / "protocol.json").read_text())
  for chunk in raw["chunks"]:
    if chunk["protocol"]["editor"] is not None:
      chunk["protocol"]["editor"]["method"] = "mend"
  (folder / "protocol.json").write_text(json.dumps(raw))
  found, _ = _numbers(folder, rename={"mend (*)": "mend"})
  assert len(found["zsre", "bare", "mend", "reliability_em"].runs) == 2
  assert len(found["zsre", "bare", "base", "reliability_em"].runs) == 1


def _number(editor, value, low, high, metric="reliability_em") -> Number:
  return Number("t", "bare", editor, metric, value, low, high, 9, (value,))


def test_the_best_of_a_row_is_marked():
  def marks(*row, metric="reliability_em"):
    values = [_number(*n, metric=metric) for n in row]
    (table,) = tables(values, {"base"})
    (line,) = table.lines
    return [cell.mark for cell in line.cells]

  assert marks(("a", 50, 40, 60), ("b", 55, 50, 60), ("c", 30, 20, 40)) == [
    *("near", "best", "")
  ]
  # One interval covers the other's value.
  assert marks(("a", 98, 95, 100), ("b", 100, 100, 100)) == ["near", "best"]
  assert marks(("a", 50.01, 40, 60), ("b", 50.02, 40, 60)) == ["best", "best"]
  assert marks(("base", 100, 100, 100), ("b", 5, 4, 6), ("c", 1, 0, 2)) == [
    *("", "best", "")
  ]
  assert marks(("a", 0.1, 0, 0.2), ("b", 0.5, 0.4, 0.6), metric="l_kl") == [
    *("best", "")
  ]
  assert marks(("a", 50, 40, 60)) == [""]


def test_tables_are_written_in_three_languages(tmp_path):
  nasty = results_folder.NASTY
  folder = results_folder.write(tmp_path / "a", editors=(nasty, "=1+1"))
  out = tmp_path / "out"
  build(Settings((folder,), out, title="50 % & <more>"))
  text = (out / "report.md").read_text()
  assert text.startswith("# 50 % &amp; &lt;more>")
  assert "<script" not in text
  assert "\\|\\_\\*\\`\\\\" in text
  widths = {line.count(" | ") for line in text.splitlines() if "zsre" in line}
  assert max(widths) >= 4
  tex = (out / "report.tex").read_text()
  assert r"\toprule" in tex
  assert r"\usepackage{booktabs,graphicx}" in tex
  assert r"\$\%\#\textasciitilde{}\textasciicircum{}\{\}" in tex
  assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 3
  lines = (out / "report.csv").read_text().split("\n")
  rows = list(csv.DictReader(lines))
  assert {row["editor"] for row in rows} == {nasty, "'=1+1"}
  row = next(r for r in rows if r["metric"] == "reliability_em")
  assert 0 <= float(row["low"]) <= float(row["value"]) <= float(row["high"])
  assert (row["records"], row["runs"]) == ("6", "1")


def test_flat_stamps():
  assert flat({"a": {"b": 1, "c": [1, 2]}, "d": None, "e": "x"}) == {
    "a.b": "1",
    "a.c": "[1, 2]",
    "d": "null",
    "e": "x",
  }


@pytest.mark.parametrize(
  ("file", "text", "message"),
  [
    ("records.jsonl", "{\n", "records.jsonl, line 1: malformed JSON"),
    ("records.jsonl", "[]\n", "line 1: must be a JSON object"),
    ("records.jsonl", '{"editor": 3}\n', "field 'editor': must be a str"),
    ("records.jsonl", "\n", "holds no record"),
    ("protocol.json", "{}", "needs 'chunks'"),
    ("protocol.json", '{"chunks": [{"task": "t"}]}', "chunk 0, field 'editor'"),
    ("protocol.json", "nonsense", "protocol.json: malformed JSON"),
  ],
)
def test_damaged_folders_are_named(tmp_path, file, text, message):
  folder = results_folder.write(tmp_path / "a")
  (folder / file).write_text(text)
  with pytest.raises(UserError, match=message):
    read_folders([folder])


def test_fields_of_records_are_checked(tmp_path):
  def spoil(record):
    record["items"][1]["scores"]["em"] = "high"

  folder = results_folder.write(tmp_path / "a", change=spoil)
  with pytest.raises(UserError, match="line 1, item 1, field 'scores': 'em'"):
    read_folders([folder])


def test_folders_that_are_no_results(tmp_path):
  with pytest.raises(UserError, match="name a folder"):
    read_folders([])
  with pytest.raises(UserError, match="no such folder"):
    read_folders([tmp_path / "none"])
  folder = results_folder.write(tmp_path / "a")
  (folder / "summary.json").unlink()
  with pytest.raises(UserError, match=r"no summary\.json"):
    read_folders([folder])
  other = results_folder.write(tmp_path / "b", editors=("ke",))
  (other / "protocol.json").write_text((folder / "protocol.json").read_text())
  with pytest.raises(UserError, match="knows nothing of zsre / ke / bare"):
    read_folders([other])


def test_intervals_of_shares_stay_within_them(tmp_path):
  def high(record):
    record["scores"]["reliability_em"] = 100.0 * (record["id"][-1] != "0")

  def all_right(record):
    record["scores"]["reliability_em"] = 100.0

  a = results_folder.write(tmp_path / "a", change=high)
  b = results_folder.write(tmp_path / "b", seed=1, change=all_right)
  found, _ = _numbers(a, b)
  number = found["zsre", "bare", "mend", "reliability_em"]
  assert len(number.runs) == 2
  assert number.value < number.high == 100.0
