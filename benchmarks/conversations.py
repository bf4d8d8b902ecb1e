"""Training on opinions (ConvSent), whose episodes are the largest.

The released step makes an edit of all replies about a topic, 20 strings, and
keeps 20 of another topic. Compared with it:

- the very same step in JAX;
- our default editor on episodes of just that size: every string is edited or
  kept, and every token scored that the released loss scores (random numbers
  in the shape of its batches, prefix states given);
- our default editor as it trains: one prompt makes the edit, and a few replies
  are asked of it.
"""

import dataclasses
from typing import Any

import jax

from benchmarks import options, rows, steps, synthetic
from benchmarks.peer import language_model
from benchmarks.rows import Row
from benchmarks.timing import side_by_side
from instructedit_jax import heap
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import BatchShape
from instructedit_jax.training.config import TrainConfig

_TASK = "convsent"


def measure(model: LanguageModel, peer: language_model.Peer) -> list[Row]:
  """A row for each of ours, all against the released step in PyTorch."""
  released = steps.Released(model, [_TASK])
  shape = whole_shape(released)
  config = steps.run_config(EditorConfig(), 40, [_TASK], 2)
  usual = steps.Ours(model, config)
  batch = float(config.batch_size)
  times = side_by_side(
    {
      "released": released.in_torch(peer),
      "in JAX": released.in_jax(),
      "whole": whole_step(model, config, shape),
      "usual": usual.cached,
    },
    options.repeats(3, 1),
    {"usual": batch},
  )
  common = {
    "model": options.MODEL.value,
    "data": options.DATA.value,
    "torch": language_model.version(),
    **released.lengths(),
  }
  titles: dict[str, tuple[str, dict[str, Any]]] = {
    "in JAX": ("released step in JAX, 20 strings a side", {}),
    "whole": (
      "default editor, 20 strings a side, prefix cached",
      {"shape": dataclasses.asdict(shape), "numbers": "random", "batch": 1},
    ),
    "usual": (
      "default editor, its own episodes, prefix cached",
      {"batch": config.batch_size, **usual.lengths()},
    ),
  }
  return [
    rows.rate(
      f"ConvSent training, {title}, vs released",
      times[name],
      times["released"],
      "episodes/s",
      **common,
      **more,
    )
    for name, (title, more) in titles.items()
  ]


def whole_shape(released: steps.Released) -> BatchShape:
  """Room for every token of the released step's usual record."""
  text = max(released.texts, key=lambda text: int(text.mask.sum()))
  edit = int(text.mask.sum())
  keep = int(text.loc_mask.sum())
  # The first token of a string has nothing in front that predicts it.
  scored = edit - len(text.tokens)
  return BatchShape(
    edit_tokens=edit,
    edit_rows=scored,
    query_tokens=edit + keep,
    keep_positions=keep,
    edit_positions=scored,
  )


def whole_step(
  model: LanguageModel, config: TrainConfig, shape: BatchShape
) -> Any:
  """Our step on one episode of that shape."""
  rule = step_lib.optimizer(config.optimizer, 1000)
  state = step_lib.init_state(
    jax.random.key(0), config.editor, model.config, rule
  )
  step = step_lib.make_train_step(
    model.graph, config.editor, config.loss, model.config, rule
  )
  step = heap.CompiledFirst(jax.jit(step, donate_argnums=0))
  batch = jax.device_put(synthetic.batch(model.config, shape, 1))
  held = {"state": jax.tree.map(lambda leaf: leaf.copy(), state)}

  def run() -> Any:
    held["state"], metrics = step(held["state"], model.params, batch)
    return metrics

  return run
