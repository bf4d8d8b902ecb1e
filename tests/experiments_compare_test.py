"""Differences between editors, and several ways summed up as one."""

import numpy as np
import pytest

from instructedit_jax.experiments import compare, joining, table3, writing
from instructedit_jax.reports.runs import Run

PLACE = ("zsre", "bare")


def _run(editor, scores, seed=None, digest=""):
  records = [{"id": id_, "scores": {"m": v}} for id_, v in scores.items()]
  stamps = {PLACE: {"editor": {"sha256": digest}, "options": {"seed": 0}}}
  return Run(
    editor, ["f"], editor, stamps=stamps, records={PLACE: records}, seed=seed
  )


def test_a_constant_difference_has_no_spread():
  rng = np.random.default_rng(0)
  base = {str(i): float(v) for i, v in enumerate(rng.normal(50, 20, 40))}
  more = {id_: value + 3 for id_, value in base.items()}
  found = compare.difference([_run("a", more)], [_run("b", base)], PLACE, "m")
  assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))
  assert found.verdict == "more"
  assert found.records == 40
  back = compare.difference([_run("b", base)], [_run("a", more)], PLACE, "m")
  assert back.verdict == "less"


def test_records_that_only_one_has_are_left_out():
  a, b = {"1": 1.0, "2": 5.0}, {"2": 2.0, "3": 9.0}
  found = compare.difference([_run("a", a)], [_run("b", b)], PLACE, "m")
  assert (found.value, found.records) == (3, 1)
  assert compare.difference([_run("a", a)], [_run("b", {})], PLACE, "m") is None


def test_seeds_widen_the_interval():
  rng = np.random.default_rng(1)
  base = {str(i): float(v) for i, v in enumerate(rng.normal(50, 1, 30))}
  seeds = [{k: v + shift for k, v in base.items()} for shift in (0, 8)]
  mine = [_run("a", each) for each in seeds]
  found = compare.difference(mine, [_run("b", base)] * 2, PLACE, "m")
  assert found.value == pytest.approx(4)
  assert found.low < 0 < found.high
  assert found.verdict == "same"


def test_seeds_go_together_wherever_they_stand():
  """Editors that differ by 3 with every seed, seeds by much more."""
  rng = np.random.default_rng(2)
  base = {str(i): float(v) for i, v in enumerate(rng.normal(50, 5, 30))}

  def of(editor, shift, seeds):
    return [
      _run(editor, {k: v + shift + 20 * seed for k, v in base.items()}, seed)
      for seed in seeds
    ]

  mine, other = of("a", 3, (0, 1, 2)), of("b", 0, (2, 0))
  found = compare.difference(mine, other, PLACE, "m")
  assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))
  # A seed whose records all failed does not take the others along.
  lost = [*mine, _run("a", {}, 3)]
  assert compare.difference(lost, other, PLACE, "m") == found
  # Seeds of which none is shared are drawn apart.
  apart = compare.difference(of("a", 3, (0, 1)), of("b", 0, (2, 4)), PLACE, "m")
  assert apart.low < apart.value < apart.high


def test_descriptions_are_no_seeds():
  base = {str(i): 50.0 for i in range(20)}
  told = [
    _run("a", {k: v + shift + extra for k, v in base.items()}, seed, str(seed))
    for seed, shift in ((0, -20), (1, 20))
    for extra in (-1, 1)
  ]
  joined = joining.of_condition(told)
  assert [run.seed for run in joined] == [0, 1]
  scores = [run.records[PLACE][0]["scores"]["m"] for run in joined]
  assert scores == [30, 70]
  # With one seed there are only the descriptions to draw.
  alone = joining.of_condition(told[:2])
  assert [run.seed for run in alone] == [None, None]
  assert len(joining.by_seed(told[:2])) == 1


def test_a_record_has_the_mean_of_what_it_has():
  runs = [_run("a", {"1": 10.0, "2": 30.0}), _run("a", {"1": 20.0})]
  [joined] = joining.by_seed(runs)
  scores = {r["id"]: r["scores"]["m"] for r in joined.records[PLACE]}
  assert scores == {"1": 15, "2": 30}


def test_what_has_no_value_is_null():
  """NaN is no JSON, and other programs refuse the whole file for it."""
  found = compare.Difference("t", "q", "m", "a", "b", float("nan"), 0, 1, 2)
  assert writing.jsonable({"x": [found]})["x"][0]["value"] is None


def test_the_paper_asks_its_own_editor_with_the_instruction():
  def both(editor, bare, instructed):
    run = _run(editor, {})
    scores = {"bare": bare, "instructed": instructed}
    for query, value in scores.items():
      row = {"id": "1", "scores": {"reliability_em": value}}
      run.records["zsre", query] = [row]
    return run

  runs = [both("text", 10.0, 90.0), both("mend", 70.0, 20.0)]
  (found,) = table3.as_published(runs, [("text", "mend"), ("none", "mend")])
  assert (found.value, found.query) == (20.0, "instructed against bare")
  # The runs themselves are as they were.
  assert set(runs[0].records) == {("zsre", "bare"), ("zsre", "instructed")}
