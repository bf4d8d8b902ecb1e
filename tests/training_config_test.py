"""Configurations that describe no training run are refused by name."""

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
