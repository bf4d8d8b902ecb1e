"""What configurations train; those of no training run are refused by name."""

import pathlib

import pytest

from instructedit_jax import app
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.editors.reference import ReferenceConfig
from instructedit_jax.errors import UserError
from instructedit_jax.training.config import TrainConfig, from_config
from instructedit_jax.training.episodes import EpisodeConfig
from instructedit_jax.training.step import OptimizerConfig

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize("name", ["paper/table3.py", "reference.py"])
def test_another_kind_of_configuration(name):
  config = app.load_config(str(CONFIGS / name))
  with pytest.raises(UserError, match="not a training configuration"):
    from_config(config)


@pytest.mark.parametrize(
  ("name", "method", "both_forms"),
  [
    ("multi.py", "instructedit_views", True),
    ("multi.py:gpt2-xl", "instructedit_views", True),
    ("multi.py:gpt2-xl,mend", "mend", True),
    ("multi.py:instructedit_text", "instructedit_text", False),
    ("quickstart.py", "instructedit", True),
    ("quickstart.py:mend", "mend", True),
  ],
)
def test_what_a_configuration_trains(name, method, both_forms):
  editor = from_config(app.load_config(str(CONFIGS / name))).editor
  assert (editor.method, editor.both_forms) == (method, both_forms)


@pytest.mark.parametrize(
  ("kind", "field", "value"),
  [
    (TrainConfig, "log_every", 0),
    (TrainConfig, "patience", -1),
    (TrainConfig, "seed", -1),
    (OptimizerConfig, "accumulate", 0),
    (ReferenceConfig, "accumulate", 0),
    (EpisodeConfig, "locality_tokens", 0),
    (EpisodeConfig, "opening_tokens", 0),
    (EpisodeConfig, "variants", -1),
    (EpisodeConfig, "scoped", -0.5),
    (EditorConfig, "ridge", -1.0),
  ],
)
def test_values_no_run_can_have(kind, field, value):
  with pytest.raises(UserError, match=rf"{field}.*must be"):
    kind(**{field: value})
