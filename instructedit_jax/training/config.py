"""One training run as frozen dataclasses.

Configuration files speak ml_collections; here they are turned once into types
that are checked, so that nothing below reads a loose dictionary.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

import ml_collections

from instructedit_jax.editors.conditioner import ConditionerConfig
from instructedit_jax.editors.gating import GatingConfig
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.errors import UserError, require_least
from instructedit_jax.parallel import MeshConfig, ShardingConfig
from instructedit_jax.training import remat
from instructedit_jax.training.batches import BatchShape
from instructedit_jax.training.episodes import EpisodeConfig
from instructedit_jax.training.losses import LossConfig
from instructedit_jax.training.step import OptimizerConfig

T = TypeVar("T")
_EVERY = ("validate_every", "checkpoint_every", "log_every")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Everything a run depends on.

  Attributes:
    model: as `load_model` takes it.
    suffix: editable blocks.
    dtype: of the base weights.
    data: "embedded", "hub" or a folder.
    tasks: to train on, with their weights in the mixture; 0 leaves one out.
    instructions: file of instruction pools; empty takes the project's own.
    steps: of `batch_size` episodes each.
    batch_size: episodes a step, over all devices.
    validation_records: held out of every task's training records.
    validate_every, checkpoint_every, log_every: steps.
    patience: validations without a better loss before training stops; 0 never.
    seed: of everything random.
    start_from: folder of an editor whose numbers training starts from, see
      `starting`; empty: fresh ones.
    prefix_cache: where prefix states are kept: "off", "memory" or "disk:PATH".
    prefix_cache_gb: memory for prefix states.
    remat: what the outer gradient keeps of a block, one of `remat.POLICIES`.
    mesh, sharding: how devices are arranged and arrays divided among them; a
      run may be continued with others.
    editor, episode, shape, loss, optimizer: see their classes.
  """

  model: str = "smollm2-135m"
  suffix: int = 3
  dtype: str = "float32"
  data: str = "embedded"
  tasks: tuple[tuple[str, float], ...] = (
    ("counterfact", 1.0),
    ("wikirecent", 1.0),
    ("convsent", 1.0),
  )
  instructions: str = ""
  steps: int = 1000
  batch_size: int = 8
  validation_records: int = 24
  validate_every: int = 200
  checkpoint_every: int = 200
  log_every: int = 10
  patience: int = 0
  seed: int = 0
  start_from: str = ""
  prefix_cache: str = "memory"
  prefix_cache_gb: float = 8.0
  remat: str = "none"
  mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
  sharding: ShardingConfig = dataclasses.field(default_factory=ShardingConfig)
  editor: EditorConfig = dataclasses.field(default_factory=EditorConfig)
  episode: EpisodeConfig = dataclasses.field(default_factory=EpisodeConfig)
  shape: BatchShape = dataclasses.field(default_factory=BatchShape)
  loss: LossConfig = dataclasses.field(default_factory=LossConfig)
  optimizer: OptimizerConfig = dataclasses.field(
    default_factory=OptimizerConfig
  )

  def __post_init__(self):
    require_least(self, "config.", steps=1, batch_size=1, seed=0)
    require_least(self, "config.", **dict.fromkeys(_EVERY, 1))
    if self.patience < 0:
      raise UserError("config.patience: must be 0 (never stop early) or more")
    remat.require(self.remat)
    for task, weight in self.tasks:
      if not 0 <= weight < math.inf:
        raise UserError(f"config.tasks.{task}: {weight} must be 0 or more")
    if not self.weights:
      raise UserError("config.tasks: name at least one task and its weight")

  @property
  def weights(self) -> dict[str, float]:
    """The weights of the tasks that are trained on."""
    return {task: weight for task, weight in self.tasks if weight > 0}


def default() -> ml_collections.ConfigDict:
  """The defaults as a configuration file starts from them."""
  values = _plain(TrainConfig())
  values["tasks"] = dict(values["tasks"])
  return ml_collections.ConfigDict(values)


def from_config(config: ml_collections.ConfigDict) -> TrainConfig:
  """Checked and frozen.

  Raises:
    UserError: an unknown key or a value of the wrong type, by name; or another
      kind of configuration.
  """
  raw = config.to_dict()
  if not isinstance(raw.get("tasks"), Mapping):
    raise UserError(
      "config: not a training configuration (its `tasks` give no weights);"
      " configs/multi.py is one"
    )
  raw["tasks"] = tuple(sorted((k, float(v)) for k, v in raw["tasks"].items()))
  return _build(TrainConfig, raw, "config")


def to_dict(config: TrainConfig) -> dict[str, Any]:
  """Plain containers, for JSON."""
  return _plain(config)


def _plain(value: Any) -> Any:
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {
      field.name: _plain(getattr(value, field.name))
      for field in dataclasses.fields(value)
    }
  return value


_NESTED = {
  "editor": EditorConfig,
  "network": HypernetworkConfig,
  "conditioner": ConditionerConfig,
  "gates": GatingConfig,
  "episode": EpisodeConfig,
  "shape": BatchShape,
  "loss": LossConfig,
  "optimizer": OptimizerConfig,
  "mesh": MeshConfig,
  "sharding": ShardingConfig,
}


def _build(kind: type[T], raw: Mapping[str, Any], path: str) -> T:
  hints = get_type_hints(kind)
  values: dict[str, Any] = {}
  for key, value in raw.items():
    if key not in hints:
      known = ", ".join(sorted(hints))
      raise UserError(f"{path}.{key}: unknown; {path} has {known}")
    where = f"{path}.{key}"
    if hints[key] is _NESTED.get(key):
      values[key] = _build(_NESTED[key], value, where)
    else:
      values[key] = _typed(value, hints[key], where)
  return kind(**values)


def _typed(value: Any, wanted: Any, where: str) -> Any:
  if wanted is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if wanted in (int, float, str, bool) and (
    not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))
  ):
    raise UserError(
      f"{where}: {value!r} is {type(value).__name__}, not {wanted.__name__}"
    )
  return value
