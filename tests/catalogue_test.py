"""Editors by name: in Python, in the evaluation and in the edit command."""

import dataclasses

import jax
import numpy as np
import pytest

from instructedit_jax import edit as edit_command
from instructedit_jax.editing.archive import load_edit
from instructedit_jax.editing.codebook import CodebookEdit
from instructedit_jax.editors.catalogue import METHODS, open_editor
from instructedit_jax.editors.fine_tuning import FineTuning
from instructedit_jax.editors.grace import Grace
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import Options, evaluate
from instructedit_jax.evaluation.chunks import chunks_of
from instructedit_jax.evaluation.settings import Settings
from instructedit_jax.models.language_model import load_model
from tests import tiny


def test_names_and_options():
  published = open_editor("ft_l")
  assert isinstance(published, FineTuning)
  assert published.config.objective == "prompt_last"
  assert published.name == "ft_l"
  changed = open_editor("ft_m:steps=50:rate=1e-3:block=2:bound=inf")
  assert changed.name == "ft_m:steps=50:rate=1e-3:block=2:bound=inf"
  config = changed.config
  assert (config.steps, config.rate, config.block) == (50, 1e-3, 2)
  assert config.bound == np.inf
  assert isinstance(open_editor("grace:suffix=2"), Grace)
  assert open_editor("grace:suffix=2").suffix == 2
  assert all(open_editor(name).details == {} for name in METHODS)


def test_folders(tmp_path):
  tiny.editor(tiny.model()).save(tmp_path / "editor")
  plain = open_editor(str(tmp_path))
  assert isinstance(plain, TrainedEditor)
  gentle = open_editor(f"{tmp_path}:enough=0.25")
  assert isinstance(gentle, TrainedEditor)
  assert gentle.config == dataclasses.replace(plain.config, enough=0.25)
  both = open_editor(f"{tmp_path}:insist=3:enough=0.25")
  assert isinstance(both, TrainedEditor)
  assert both.config == dataclasses.replace(gentle.config, insist=3)


def test_a_folder_with_colons(tmp_path):
  folder = tmp_path / "a:b=c"
  tiny.editor(tiny.model()).save(folder)
  assert isinstance(open_editor(f"{folder}"), TrainedEditor)
  editor = open_editor(f"{folder}:insist=0")
  assert isinstance(editor, TrainedEditor)
  assert editor.config.insist == 0


@pytest.mark.parametrize(
  ("option", "message"),
  [
    ("steps=5", "no option 'steps=5'.* one of insist, enough$"),
    ("enough", "no option 'enough'.* one of insist, enough$"),
    ("enough=little", "enough='little' is not of type float"),
    ("enough=-1", "enough=-1.0: must be at least 0"),
    ("insist=-1", "insist=-1: must be at least 0"),
    ("insist=0.5", "insist='0.5' is not of type int"),
  ],
)
def test_options_of_folders_that_make_no_sense(option, message, tmp_path):
  tiny.editor(tiny.model()).save(tmp_path)
  with pytest.raises(UserError, match=message) as raised:
    open_editor(f"{tmp_path}:{option}")
  # Whose option it is, once.
  assert str(raised.value).count(str(tmp_path)) == 1


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ("rome", "one of ft_l, ft_m, grace, ultraedit, calinet"),
    ("base", "an evaluation also takes base, the unedited model"),
    ("ft_m:speed=1", "no option 'speed=1'.*rate"),
    ("ft_m:steps", "no option 'steps'"),
    ("ft_m:steps=many", "steps='many' is not of type int"),
    ("ft_m:objective=x", "editor ft_m: objective=x"),
    ("grace:radius=-1", "editor grace: radius"),
    ("grace:steps=-3", "editor grace: steps"),
    ("grace:seed=-1", "editor grace: seed"),
    ("calinet:seed=-1", "editor calinet: seed"),
    ("ft_m:rate=-1", "editor ft_m: rate"),
    ("calinet:rate=nan", "editor calinet: rate"),
    ("grace:rate=0", "editor grace: rate"),
  ],
)
def test_mistakes_are_told(spec, message):
  with pytest.raises(UserError, match=message):
    open_editor(spec)


def test_a_record_that_fails_is_named_and_the_others_are_done():
  model = tiny.model()
  records = [tiny.record(0), tiny.record(1, prompt="x " * 600)]
  records += [tiny.record(2), tiny.opinion(3)]
  results = evaluate(
    model,
    open_editor("ft_l:steps=2"),
    records,
    options=Options(free=False, fluency_limit=0, resamples=5),
  )
  assert [r.id for r in results.records] == [records[i].id for i in (0, 2, 3)]
  ((failed, reason),) = results.failed
  assert failed == records[1].id
  assert "at most" in reason


def test_the_evaluation_takes_names_beside_folders(tmp_path):
  tiny.editor(load_model("random:tiny-llama")).save(tmp_path / "run" / "editor")
  names = ["base", "ft_m:steps=0", str(tmp_path / "run"), "grace:suffix=2"]
  options = Options(free=False, fluency_limit=0, resamples=5)
  settings = Settings(
    editors=tuple(names),
    out=str(tmp_path / "out"),
    tasks=("counterfact",),
    limit=1,
    queries=("bare",),
    options=options,
  )
  base, none, trained, grace = chunks_of(settings)
  assert [c.label for c in (base, none, trained, grace)] == [
    "base",
    "ft_m:steps=0",
    "mend",
    "grace:suffix=2",
  ]
  # The model is the one that the trained editor names, once for each suffix.
  assert base.baseline is none.baseline is trained.baseline
  assert grace.baseline.model.config.suffix == 2
  assert none.stamp["editor"]["method"] == "ft_m:steps=0"
  assert none.stamp["editor"]["config"]["rate"] == 5e-4
  assert len(trained.stamp["editor"]["sha256"]) == 64
  results = none.evaluate(options, lambda count: None)
  assert results.editor == "ft_m:steps=0"
  assert results.value("locality_em") == 100
  assert results.value("locality_kl") == pytest.approx(0, abs=1e-4)
  assert none.load() == results
  with pytest.raises(UserError, match="--model"):
    chunks_of(Settings(editors=("grace",), out=str(tmp_path / "x")))


def test_the_edit_command_takes_names(tmp_path, capsys):
  path = tmp_path / "edit.npz"
  settings = edit_command.Settings(
    editor="grace:steps=5",
    model="random:tiny-llama",
    prompt="S is",
    target="a",
    tokens=2,
    save=str(path),
  )
  edit_command.run(settings)
  assert "target: a" in capsys.readouterr().out
  edit = load_edit(path, load_model("random:tiny-llama"))
  assert isinstance(edit, CodebookEdit)
  exported = dataclasses.replace(settings, export=str(tmp_path / "model"))
  with pytest.raises(UserError, match="cannot be merged"):
    edit_command.run(exported)


@pytest.mark.parametrize(
  "name", ["task", "instruction", "subject", "sentiment"]
)
def test_what_a_file_of_edits_says_itself_is_not_said_beside_it(tmp_path, name):
  path = tmp_path / "edits.jsonl"
  path.write_text('{"prompt": "S is", "target": "a"}\n')
  settings = edit_command.Settings("grace", edits=str(path), **{name: "zsre"})
  with pytest.raises(UserError, match=f"--{name} belongs to --prompt"):
    edit_command.run(settings)


def test_the_edit_command_loads_the_model_as_it_was_in_training():
  half = load_model("random:tiny-llama", dtype="bfloat16")
  details = {"model": half.name, "config": {"dtype": "bfloat16"}}
  trained = dataclasses.replace(tiny.editor(half), details=details)

  def loaded(**options):
    settings = edit_command.Settings("runs/half", **options)
    return edit_command._model(trained, settings).params

  def types(params):
    return [leaf.dtype for leaf in jax.tree.leaves(params)]

  assert types(loaded()) == types(half.params)
  assert "bfloat16" in types(half.params)
  assert "bfloat16" not in types(loaded(dtype="float32"))
