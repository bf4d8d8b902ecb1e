"""The inputs of a run's programs as shapes: no weights, no data, no device."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from instructedit_jax.editing.prefix import PrefixCache, State
from instructedit_jax.editing.sequences import Scored
from instructedit_jax.errors import UserError
from instructedit_jax.models import families, gguf, presets, weights
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.tasks.instructions import Instruction
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import Batch, Batcher
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.episodes import Episode, Kind
from instructedit_jax.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class RunShapes:
  """A run without its numbers: every array is a `jax.ShapeDtypeStruct`.

  Attributes:
    run: the configuration.
    model: the decoder's shape.
    graph: static half of the decoder.
    weights: its parameters.
    state: what training changes.
    rule: the optimizer.
  """

  run: TrainConfig
  model: DecoderConfig
  graph: nnx.GraphDef
  weights: nnx.State
  state: TrainState
  rule: optax.GradientTransformation

  def batch(self, episodes: int) -> Batch:
    """One step's input for so many episodes."""
    # The real batcher packs one episode of nothing, so that its layout is
    # stated in one place only.
    scored = Scored((0, 0), (0,))
    told = Instruction("task", "description")
    queries = ((Kind.EDIT, scored), (Kind.KEEP, scored))
    batcher = Batcher(
      _Zeros(self.model.width), self.run.shape, self.model.width
    )
    one = batcher([Episode((scored,), told, True, queries)], [scored])
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        (episodes, *leaf.shape[1:]), leaf.dtype
      ),
      one,
    )


class _Zeros(PrefixCache):
  """Stands in for computed prefix states."""

  def __init__(self, width: int):
    self._width = width

  def warm(self, sequences: Iterable[Scored]) -> None:
    del sequences

  def __call__(self, sequences: Sequence[Scored]) -> list[State]:
    return [
      State(
        np.zeros((len(sequence.tokens), self._width), np.float32),
        np.zeros((len(sequence.labels), self._width), np.float32),
      )
      for sequence in sequences
    ]


def of_run(config: TrainConfig) -> RunShapes:
  """The shapes of a run.

  Raises:
    UserError: the model's shape is known neither here nor on this disk.
  """
  model = families.with_suffix(model_shape(config.model), config.suffix)
  graph, params = model_weights(model, config.dtype)
  rule = step_lib.optimizer(config.optimizer, config.steps)
  state = jax.eval_shape(
    lambda: step_lib.init_state(jax.random.key(0), config.editor, model, rule)
  )
  return RunShapes(config, model, graph, params, state, rule)


def model_shape(spec: str) -> DecoderConfig:
  """The shape of a model `load_model` would load, without loading it.

  Built-in shapes need no file; a directory or .gguf file is read for its shape
  alone. Nothing is downloaded.

  Raises:
    UserError: the shape is not known without a download.
  """
  kind, _, rest = spec.partition(":")
  if kind == "random":
    return presets.preset(rest)
  if spec.endswith(".gguf"):
    return gguf.GgufFile(spec).config
  if pathlib.Path(spec).is_dir():
    return _directory_shape(pathlib.Path(spec) / "config.json")
  name = presets.name_of(spec)
  if name is None:
    known = ", ".join(presets.names())
    raise UserError(
      f"model {spec!r}: its shape is not built in, and planning downloads"
      " nothing. Give a local directory, or the nearest of these as"
      f" --config.model=random:NAME: {known}"
    )
  return presets.preset(name)


def _directory_shape(file: pathlib.Path) -> DecoderConfig:
  try:
    fields = json.loads(file.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(
      f"{file}: cannot be read ({error}); a model's directory holds its"
      " config.json"
    ) from error
  return families.from_transformers(fields, name=str(file))


def model_weights(
  model: DecoderConfig, dtype: str
) -> tuple[nnx.GraphDef, nnx.State]:
  """A decoder's graph and its parameters' shapes in their kept precision."""
  graph, tree = weights.abstract(model)

  def kept(key_path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
    path = weights.leaf_paths(model, key_path)[0]
    return jax.ShapeDtypeStruct(leaf.shape, weights.leaf_dtype(path, dtype))

  return graph, jax.tree_util.tree_map_with_path(kept, tree)


def parts_of(weights_tree: nnx.State, tied: bool) -> dict[str, int]:
  """Parameters of a decoder: prefix, suffix, embedding and head.

  A tied embedding counts as the head, which training cannot do without.
  """
  return _sums(weights_tree, tied, lambda leaf: leaf.size)


def bytes_of(weights_tree: nnx.State, tied: bool) -> dict[str, int]:
  """As `parts_of`, in bytes."""
  return _sums(weights_tree, tied, lambda leaf: leaf.size * leaf.dtype.itemsize)


def nbytes(tree: Any) -> int:
  """Bytes of all arrays of a tree."""
  return sum(
    leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
  )


def size(tree: Any) -> int:
  """Numbers in all arrays of a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _sums(
  tree: nnx.State, tied: bool, measure: Callable[[Any], int]
) -> dict[str, int]:
  found = {"prefix": 0, "suffix": 0, "embedding": 0, "head": 0}
  for key_path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    path = weights.tree_path(key_path)
    found[_part(path, tied)] += measure(leaf)
  return found


def _part(path: str, tied: bool) -> str:
  if path.startswith("head") or (path == "embedding" and tied):
    return "head"
  if path in ("embedding", "positions"):
    return "embedding"
  # The first editable block's attention still belongs to the prefix.
  if path.startswith(("prefix_blocks.", "suffix_blocks.0.attention")):
    return "prefix"
  return "suffix"
