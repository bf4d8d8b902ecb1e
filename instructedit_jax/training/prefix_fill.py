"""A store of prefix states filled before the run that needs them."""

from typing import Any

from absl import logging

from instructedit_jax.editing import prefix_store
from instructedit_jax.editing.prefix_store import PrefixStore
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.progress import Progress
from instructedit_jax.training import config as config_lib
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.data import Episodes, load_records

# In these the runs that one filled store serves may differ.
_FREE = (
  *("steps", "validate_every", "checkpoint_every", "log_every", "patience"),
  *("prefix_cache", "prefix_cache_gb", "remat", "mesh", "sharding"),
  *("loss", "optimizer"),
)
# Raised whenever the same configuration comes to read other sequences.
_READING = 4


def fill(
  config: TrainConfig, model: LanguageModel | None = None
) -> PrefixStore:
  """Computes and stores all prefix states of a run.

  Args:
    config: the run; its prefix_cache is "disk:PATH".
    model: the base model, if it is loaded already.

  Raises:
    UserError: bad input, another model's store, or not enough room in it.
  """
  prefix_store.disk_place(config.prefix_cache)
  if model is None:
    logging.info("loading %s", config.model)
    model = load_model(config.model, suffix=config.suffix, dtype=config.dtype)
  episodes = Episodes(model, config, load_records(config))
  store = episodes.cache.store
  assert isinstance(store, PrefixStore)
  with Progress(config.steps, "prefix states") as bar:
    episodes.validation_batches()
    for _ in episodes.batches(0):
      bar.update(1, computed=episodes.cache.computed)
  store.flush()
  if store.stopped:
    raise UserError(
      f"{store.folder}: not all prefix states could be stored"
      f" ({store.stopped}). Make room and run the same command again, or give"
      " the store more: --config.prefix_cache=disk:PATH?gb=SIZE"
    )
  store.mark_filled(_run(config), config.steps)
  logging.info(
    "%s: %d states, %.2f GiB; %d of them are new",
    store.folder,
    len(store),
    store.nbytes / 2**30,
    episodes.cache.computed,
  )
  return store


def is_filled(config: TrainConfig) -> bool:
  """Whether `fill` has run for it: `load_model(..., prefix=False)` will do."""
  if not config.prefix_cache.startswith("disk:"):
    return False
  folder, _ = prefix_store.disk_place(config.prefix_cache)
  return prefix_store.filled_steps(folder, _run(config)) >= config.steps


def _run(config: TrainConfig) -> dict[str, Any]:
  """What decides which sequences a run reads, and more."""
  values = config_lib.to_dict(config)
  kept = {key: value for key, value in values.items() if key not in _FREE}
  return kept | {"reading": _READING}
