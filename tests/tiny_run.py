"""A tiny run for tests: random Llama, byte tokenizer, embedded records."""

import dataclasses

from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.training.batches import BatchShape
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.episodes import EpisodeConfig


def model() -> LanguageModel:
  return load_model("random:tiny-llama", suffix=2)


def config(method: str = "instructedit", **changes: object) -> TrainConfig:
  """Six steps of four episodes; bytes are long, so rows are too."""
  network = HypernetworkConfig(rank=8, v_scale="width", statistics_per="matrix")
  run = TrainConfig(
    model="random:tiny-llama",
    suffix=2,
    steps=6,
    batch_size=4,
    validation_records=4,
    validate_every=3,
    checkpoint_every=2,
    log_every=1,
    editor=EditorConfig(method, network),
    episode=EpisodeConfig(target_tokens=6, locality_tokens=3),
    shape=BatchShape(
      edit_tokens=640,
      edit_rows=12,
      query_tokens=512,
      keep_positions=9,
      edit_positions=18,
    ),
  )
  return dataclasses.replace(run, **changes)
