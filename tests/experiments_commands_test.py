"""Every experiment from its configuration to its files, on a tiny model."""

import json
import pathlib

import ml_collections
import pytest

from instructedit_jax import app
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import natural
from instructedit_jax.experiments import (
  case,
  entrants,
  instructions,
  scope,
  statistics,
  table3,
)
from instructedit_jax.experiments.entrants import Entrant
from instructedit_jax.experiments.measuring import Measuring, Way
from instructedit_jax.experiments.setup import given_editors, setup
from instructedit_jax.models.language_model import load_model
from instructedit_jax.reports.runs import Run
from instructedit_jax.training import config as config_lib
from tests import tiny, tiny_run

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAPER = sorted(
  path
  for path in (ROOT / "configs" / "paper").glob("*.py")
  if path.stem != "common"
)
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
  """Folders of two trained editors for random:tiny-llama."""
  root = tmp_path_factory.mktemp("editors")
  model, found = load_model("random:tiny-llama"), {}
  for method in ("mend", "instructedit_text"):
    folder = root / method
    tiny.editor(model, method, rate=30.0).save(folder)
    found[method] = (str(folder),)
  return found


def _config(**changes):
  values = {
    "model": "random:tiny-llama",
    "data": "embedded",
    "tasks": ("counterfact",),
    "limit": 2,
    "seeds": (0,),
    "instruction": "held_out:0",
    "queries": ("bare",),
    "free": False,
    "free_limit": 0,
    "fluency_limit": 0,
    "editors": {},
  }
  return ml_collections.ConfigDict(values | changes)


def _setup(name, config, tmp_path, given, **changes):
  places = {"out": tmp_path / "out", "work": tmp_path / "work"}
  return setup(name, config, given=given, command="it", **places | changes)


def _read(tmp_path, name):
  return json.loads((tmp_path / "out" / name).read_text())


def _alike(value):
  """As near as single precision's divergences of some 0.01 are: 1e-4 seen."""
  return pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("path", PAPER, ids=lambda p: p.stem)
def test_configurations_are_complete(path, monkeypatch):
  monkeypatch.syspath_prepend(str(ROOT))
  small = app.load_config(str(path))
  big = app.load_config(f"{path}:llama-2-7b")
  assert small.model != big.model
  assert list(small.editors) == list(big.editors)
  assert sorted(small.order) == sorted(small.editors)
  for name, recipe in small.editors.items():
    if not isinstance(recipe, str):
      config_lib.from_config(recipe)
      # What is chosen for a model comes with the model.
      larger = big.editors[name]
      assert (recipe.model, larger.model) == (small.model, big.model)
      assert larger.editor.rate < recipe.editor.rate
  with pytest.raises(UserError, match="none of"):
    app.load_config(f"{path}:gpt-5")


@pytest.mark.slow
def test_a_table_of_methods(tmp_path, given):
  config = _config(
    editors={"base": "base", "mend": "missing", "gone": "no_such_method"},
    pairs=(("instructedit_text", "mend"),),
    as_published=(("instructedit_text", "mend"),),
  )
  table3.run(_setup("table3", config, tmp_path, given))
  numbers = _read(tmp_path, "numbers.json")
  editors = {n["editor"] for n in numbers["numbers"]}
  assert editors == {"base", "mend", "instructedit_text"}
  base = [n for n in numbers["numbers"] if n["editor"] == "base"]
  (locality,) = (n for n in base if n["metric"] == "locality_token")
  assert locality["value"] == 100
  text = (tmp_path / "out" / "table.md").read_text()
  assert "- gone: " in text  # it failed, and the others went on
  assert "instructedit_text - mend" in text
  assert "- command: `it`" in text
  assert (tmp_path / "out" / "figure.png").read_bytes().startswith(PNG)
  stamp = _read(tmp_path, "protocol.json")
  assert len(stamp["protocols"]) == 1
  assert {e["editor"] for e in stamp["evaluations"]} == editors


def test_a_seed_that_fails_leaves_the_others(tmp_path):
  runs = ("ft_m:steps=1", "ft_m:block=0")  # which is not editable
  config = _config(limit=1)
  measuring = Measuring(_setup("table3", config, tmp_path, {}))
  found = measuring([Entrant("ft_m", runs)], Way())
  assert [run.editor for run in found] == ["ft_m"]
  ((name, reason),) = measuring.failed.items()
  assert name == "ft_m, ft_m:block=0, held_out:0"
  assert "editable" in reason
  with pytest.raises(UserError, match="editable"):
    measuring([Entrant("ft_m", runs[1:])], Way())


@pytest.mark.slow
def test_how_far_an_edit_reaches(tmp_path, given):
  config = _config(sentences=1, limit=2, tasks=("zsre",), reference="mend")
  scope.run(_setup("scope", config, tmp_path, given))
  found = _read(tmp_path, "numbers.json")
  held = {
    (said, n["editor"], n["metric"]): n["value"]
    for said, each in found["numbers"].items()
    for n in each
  }
  # MEND reads no instruction: it reaches as far whatever it is told.
  for metric in ("generalization_em", "generalization_kept", "locality_kl"):
    mine = {held[s, "mend", metric] for s in ("unsaid", "wide", "verbatim")}
    assert len(mine) == 1
  kl = "locality_kl"
  text = "instructedit_text"
  assert held["wide", text, kl] != _alike(held["verbatim", text, kl])
  assert 0 <= held["verbatim", "mend", "obeyed"] <= 100
  assert 0 <= held["verbatim", "mend", "heeded"] <= 100
  keys = ("editor", "other", "metric")
  assert [tuple(d[k] for k in keys) for d in found["differences"]] == [
    (text, "mend", "heeded"),
    (text, "mend", "obeyed"),
  ]
  assert (tmp_path / "out" / "figure.png").is_file()


@pytest.mark.slow
def test_what_an_instruction_does(tmp_path, given, monkeypatch):
  monkeypatch.setattr(natural, "COUNT", 1)
  config = _config(
    descriptions=1,
    limit=1,
    conditions=("none", "seen", "held_out", "natural", "untold"),
  )
  instructions.run(_setup("instructions", config, tmp_path, given))
  found = _read(tmp_path, "numbers.json")
  held = {
    (condition, n["editor"], n["query"], n["metric"]): n["value"]
    for condition, each in found["numbers"].items()
    for n in each
  }
  kl = "locality_kl"
  # MEND reads no instruction: it edits the same whatever it is told.
  for condition in ("seen", "held_out", "natural"):
    assert held[condition, "mend", "bare", kl] == pytest.approx(
      held["none", "mend", "bare", kl]
    )
  text = "instructedit_text"
  assert held["held_out", text, "bare", kl] != _alike(
    held["none", text, "bare", kl]
  )
  # Not told, it edits as without, and its old facts are asked plainly anyway.
  assert held["untold", text, "instructed", kl] == _alike(
    held["none", text, "bare", kl]
  )
  pairs = {(d["editor"], d["other"]) for d in found["differences"]}
  assert (f"{text}, held_out", f"{text}, seen") in pairs
  assert (f"{text}, natural", f"{text}, held_out") in pairs
  assert held["natural", text, "bare", kl] != _alike(
    held["held_out", text, "bare", kl]
  )
  assert all(d["value"] == 0 for d in found["differences"]
             if d["editor"] == "mend, seen")  # fmt: skip
  assert (tmp_path / "out" / "figure-mend.png").is_file()


@pytest.mark.parametrize("conditions", [(), ("none", "heldout")])
def test_unknown_conditions_are_told_before_anything_is_trained(
  tmp_path, conditions
):
  made = _setup(
    "instructions",
    _config(conditions=conditions, descriptions=1),
    *(tmp_path, {}),
  )
  with pytest.raises(UserError, match=r"conditions: .* none of none, "):
    instructions.run(made)


@pytest.mark.slow
def test_an_editor_without_numbers_has_no_picture(tmp_path, given):
  tiny.editor(load_model("random:tiny-gpt2")).save(tmp_path / "other")
  both = {**given, "other": (str(tmp_path / "other"),)}
  config = _config(descriptions=1, limit=1, conditions=("none",))
  instructions.run(_setup("instructions", config, tmp_path, both))
  assert "other" in (tmp_path / "out" / "table.md").read_text()
  assert (tmp_path / "out" / "figure-mend.png").is_file()
  assert not (tmp_path / "out" / "figure-other.png").exists()


@pytest.mark.slow
def test_cases_can_be_read(tmp_path, given):
  config = _config(limit=1, free=True)
  only = ("mend",)
  case.run(_setup("case", config, tmp_path, given, only=only))
  text = (tmp_path / "out" / "table.md").read_text()
  for word in ("reliability: ", "locality: ", "| before", "| mend"):
    assert word in text
  assert (tmp_path / "out" / "report.html").is_file()


def test_an_answer_stands_under_its_editor():
  """Also where an editor failed on the record, be it the first one."""

  def of(editor, ids):
    records = [
      {
        "id": id_,
        "prompt": "P",
        "target": "T",
        "items": [
          {
            "metric": "reliability",
            "prompt": "P",
            "answers": ["T"],
            "before": "x",
            "after": f"{editor} {id_}",
          }
        ],
      }
      for id_ in ids
    ]
    return Run(editor, ["f"], editor, records={("t", "bare"): records})

  runs = [of("a", "2"), of("b", "3"), of("c", "123")]
  texts = case.answers(runs, "t", "bare")
  cells = {
    head[0]: [cell.strip() for cell in text.split("\n")[2].split("|")[4:-1]]
    for head, text in texts.items()
  }
  assert cells == {
    "2": ["_a 2_", "", "_c 2_"],
    "3": ["", "_b 3_", "_c 3_"],
    "1": ["", "", "_c 1_"],
  }


def test_the_data_are_counted(tmp_path):
  config = _config(tasks=("counterfact", "convsent", "nonsense"))
  statistics.run(_setup("statistics", config, tmp_path, {}))
  found = _read(tmp_path, "numbers.json")
  of_test = found["data"]["counterfact, test"]
  assert of_test["records"] == of_test["read"] > 50
  assert found["data"]["convsent, train"]["replies"] > 0
  assert found["common"]["counterfact"]["prompts"] == 0
  assert "nonsense, train" in (tmp_path / "out" / "table.md").read_text()


def test_editors_are_given_by_name():
  found = given_editors(["mend=a", "mend=b", "x=c=d"])
  assert found == {"mend": ("a", "b"), "x": ("c=d",)}
  with pytest.raises(UserError, match="NAME=DIR"):
    given_editors(["mend"])


def test_a_file_of_instructions_serves_training_and_evaluation(tmp_path):
  path = tmp_path / "pools.json"
  mine = {"counterfact": {"train": ["Mine."], "held_out": ["Its."]}}
  path.write_text(json.dumps({"tasks": mine}))
  made = setup("sweep", _config(), instructions=str(path))
  assert made.pools["counterfact"].held_out == ("Its.",)
  values = config_lib.to_dict(tiny_run.config())
  recipe = ml_collections.ConfigDict(values | {"tasks": {"counterfact": 1.0}})
  trained = entrants.train_config(made, recipe, 0)
  assert trained.instructions == str(path)
  plain = entrants.train_config(setup("sweep", _config()), recipe, 0)
  assert plain.instructions == ""
  with pytest.raises(UserError, match=r"pools\.json.*'zsre'"):
    setup("sweep", _config(tasks=("zsre",)), instructions=str(path))


def test_unknown_editors_are_refused(tmp_path, given):
  made = _setup("table3", _config(), tmp_path, given, only=("what",))
  with pytest.raises(UserError, match="no editor 'what'"):
    entrants.entrants(made)
