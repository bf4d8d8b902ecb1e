"""One case of the reference arrays: its inputs, and our numbers for it.

A case is a few micro-steps of the published recipe on a tiny model, then an
edit. `compute` returns everything we can say about it under the names the
files use, so that the comparison needs to know no names.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.statistics import Moments, deviation
from instructedit_jax.editors import hypernetwork, reference
from instructedit_jax.models import families, weights
from instructedit_jax.models.tensors import checkpoint_table

_SIDES = {"mlp": "both", "mlp1": "x", "mlp2": "delta"}
_LEAVES = {
  "u": "u",
  "v": "v",
  "bias": "bias",
  "mode_shift.weight": "shift",
  "mode_scale.weight": "scale",
}
_TRANSPOSED = ("u", "v")  # theirs are [outputs, inputs]


@dataclasses.dataclass(frozen=True)
class Case:
  """What the manifest and the files say of one case.

  Attributes:
    name: of its file, without the ending.
    spec: the manifest's entry.
    start: the editor's parameters before training, by their names.
    model: hf_config, and the weights by their names.
    batches: every batch array, by name.
  """

  name: str
  spec: Mapping[str, Any]
  start: Mapping[str, np.ndarray]
  model: tuple[Mapping[str, Any], Mapping[str, np.ndarray]]
  batches: Mapping[str, np.ndarray]

  @property
  def dtype(self) -> str:
    """What it is computed in."""
    return {"f64": "float64", "f32": "float32"}[self.spec["compute_dtype"]]


@dataclasses.dataclass(frozen=True)
class _Setup:
  """The case in our words; hashable, so that equal cases compile once.

  `matrices` has (our name, their network, (n, m), whether theirs is the
  transposed) in listed order.
  """

  graph: nnx.GraphDef
  config: reference.ReferenceConfig
  matrices: tuple[tuple[str, str, tuple[int, int], bool], ...]

  @property
  def shapes(self) -> dict[str, tuple[int, int]]:
    return {name: shape for name, _, shape, _ in self.matrices}

  def without_optimiser(self) -> "_Setup":
    """What decides an episode: cases that agree in it compile it once."""
    chosen = reference.ReferenceConfig(
      hypernetwork=self.config.hypernetwork,
      cedit=self.config.cedit,
      cloc=self.config.cloc,
    )
    return dataclasses.replace(self, config=chosen)


class _Arrays:
  """Base weights as a checkpoint that `weights.load` reads."""

  def __init__(self, name: str, arrays: Mapping[str, np.ndarray]):
    self.name, self.arrays = name, arrays

  def shapes(self) -> dict[str, tuple[int, ...]]:
    return {name: self.arrays[name].shape for name in self.arrays}

  def read(self, name: str) -> np.ndarray:
    return self.arrays[name]


def compute(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
  """Our arrays and our scalars, by the files' names.

  Scalars are named "<batch>/<key>" as in the manifest's steps, and
  "eval/<key>". Logits at padded positions are NaN: nothing defines them.
  """
  setup, params = _setup(case)
  state = _start(case, setup)
  arrays: dict[str, Any] = {}
  scalars: dict[str, Any] = {}
  for number, label in enumerate(case.spec["micro_steps"], 1):
    batch = _batch(case, label)
    statistics, report = _episode(
      setup.without_optimiser(), params, state, batch
    )
    state = _optimise(
      setup, state._replace(statistics=statistics), report.gradients
    )
    arrays.update(_step_arrays(setup, label, batch, report))
    scalars.update(_step_scalars(setup, label, state, report))
    update, rest = divmod(number, setup.config.accumulate)
    if rest == 0:
      for name, value in _names(setup, state.params).items():
        arrays[f"after_update{update}/{name}"] = value
    else:
      scalars[f"{label}/grad_norm_preclip"] = None
  for name, network, shape, _ in setup.matrices:
    key = _statistics_key(setup, name, shape)
    for part, value in _moments(state.statistics[key]).items():
      arrays[f"stats_final/{network}.{part}"] = value
  if case.spec["eval"]:
    label = case.spec["eval"]["batch"]
    batch = _batch(case, label)
    edit, logits, nll = _edit(setup.without_optimiser(), params, state, batch)
    arrays.update(_updates(setup, f"eval_{label}", edit))
    arrays[f"eval_{label}/post_edit_logits"] = _real(logits, batch.mask)
    scalars |= {"eval/batch": label, "eval/post_nll": nll}
  return arrays, scalars


def _setup(case: Case) -> tuple[_Setup, nnx.State]:
  hf_config, base = case.model
  config = families.from_transformers(hf_config, name=f"{case.name}: hf_config")
  entries = {entry.name: entry for entry in checkpoint_table(config)}
  listed = []
  for theirs in case.spec["inner_params"]:
    found = re.fullmatch(
      r"blocks\.(\d+)\.mlp\.(\w+)\.kernel", entries[theirs].path
    )
    if found is None:
      raise ValueError(f"{theirs} is not an MLP matrix")
    listed.append((theirs, int(found[1]), found[2], entries[theirs].transposed))
  first = min(block for _, block, _, _ in listed)
  config = families.with_suffix(config, config.blocks - first)
  graph, params = weights.load(config, _Arrays(case.name, base))
  params = jax.tree.map(lambda leaf: leaf.astype(case.dtype), params)
  form = _config(case.spec["config"])
  matrices = []
  for theirs, block, matrix, transposed in listed:
    name = f"{block}.{matrix}"
    shape = config.matrix_shape(name)
    shared = form.hypernetwork.shared
    network = str(shape) if shared else theirs.replace(".", "#")
    matrices.append((name, network, shape, transposed))
  return _Setup(graph, form, tuple(matrices)), params


def _config(spec: Mapping[str, Any]) -> reference.ReferenceConfig:
  if spec.get("opt", "Adam") != "Adam":
    raise ValueError(f"optimizer {spec['opt']} is not the released one")
  sides = "combined" if spec["combine"] else "separate"
  for flag, value in (
    ("one_sided", "smaller"),
    ("x_only", "x"),
    ("delta_only", "delta"),
  ):
    sides = value if spec.get(flag) else sides
  network = hypernetwork.HypernetworkConfig(
    rank=spec["rank"],
    depth=spec["n_hidden"] + 1,
    shared=spec["shared"],
    sides=sides,
    normalize=spec["norm"],
    init={"id": "identity"}.get(spec["init"], spec["init"]),
    # One set of statistics for each transform.
    statistics_per="shape" if spec["shared"] else "matrix",
  )
  return reference.ReferenceConfig(
    hypernetwork=network,
    edit_lr=spec["edit_lr"],
    lr=spec["lr"],
    lr_lr=spec["lr_lr"],
    cedit=spec["cedit"],
    cloc=spec["cloc"],
    accumulate=spec["accumulate_bs"],
    grad_clip=spec["grad_clip"],
  )


def _batch(case: Case, label: str) -> reference.Batch:
  def get(name: str) -> jax.Array:
    return jnp.asarray(case.batches[f"{label}/{name}"])

  sentiment = f"{label}/same_mask" in case.batches
  answers = "attention_mask" if sentiment else "decoder_attention_mask"
  return reference.Batch(
    tokens=get("edit_inner/input_ids"),
    mask=get("edit_inner/attention_mask"),
    labels=get("edit_inner/labels"),
    loc_tokens=get("loc/input_ids"),
    loc_mask=get("loc/attention_mask"),
    answer_mask=get(f"loc/{answers}"),
    same=get("same_mask") if sentiment else None,
  )


def _start(case: Case, setup: _Setup) -> reference.State:
  form, shapes = setup.config.hypernetwork, setup.shapes
  params, statistics = hypernetwork.init(
    jax.random.key(0), shapes, form, case.dtype
  )
  theirs = dict(case.start)

  def take(name: str, like: jax.Array) -> jax.Array:
    value = jnp.asarray(theirs.pop(name), case.dtype)
    value = value.T if name.rsplit(".", 1)[-1] in _TRANSPOSED else value
    if value.shape != like.shape:
      raise ValueError(f"{name} is {value.shape}, ours {like.shape}")
    return value

  edit_lrs = take("edit_lrs", jnp.zeros(len(shapes)))
  for name, (path, leaf) in _editor_names(setup).items():
    layer = _at(params, path)
    layer[leaf] = take(name, layer[leaf])
  if theirs:
    raise ValueError(f"start parameters without a place: {sorted(theirs)}")
  trained = {"networks": params, "edit_lrs": edit_lrs}
  return reference.start(trained, statistics)


def _editor_names(setup: _Setup) -> dict[str, tuple[Any, str]]:
  """Their name -> (path of the layer in our parameters, our leaf)."""
  form = setup.config.hypernetwork
  widths = hypernetwork.widths(setup.shapes, form)
  names = {}
  for name, network, shape, _ in setup.matrices:
    ours = hypernetwork.shape_key(shape) if form.shared else name
    for module, side in _SIDES.items():
      for index in range(form.depth if side in widths[ours] else 0):
        for theirs, leaf in _LEAVES.items():
          if form.shared or not theirs.startswith("mode"):
            full = f"{network}.{module}.layers.{index}.{theirs}"
            names[full] = ((ours, side, index), leaf)
  return names


def _names(setup: _Setup, params: Any) -> dict[str, np.ndarray]:
  """Our parameters (or gradients) by their names, in their orientation."""
  named = {"edit_lrs": params["edit_lrs"]}
  for name, (path, leaf) in _editor_names(setup).items():
    value = _at(params["networks"], path)[leaf]
    named[name] = value.T if leaf in _TRANSPOSED else value
  return named


def _at(params: Any, path: Any) -> Any:
  return functools.reduce(lambda node, key: node[key], path, params)


def _step_arrays(
  setup: _Setup, label: str, batch: reference.Batch, report: reference.Report
) -> dict[str, Any]:
  arrays = _updates(setup, label, report.edit)
  for index, name in enumerate(setup.shapes):
    mask = np.asarray(report.factors.mask[name])
    arrays[f"{label}/x{index}"] = report.factors.x[name]
    arrays[f"{label}/delta{index}"] = report.factors.delta[name]
    arrays[f"{label}/keep{index}"] = mask
    arrays[f"{label}/pseudo_u{index}"] = np.asarray(report.pseudo.x[name])[mask]
    arrays[f"{label}/pseudo_v{index}"] = np.asarray(report.pseudo.delta[name])[
      mask
    ]
    for part, value in _moments(report.seen[name]).items():
      arrays[f"{label}/stat_after{index}/{part}"] = value
  for name, value in report.logits.items():
    mask = batch.loc_mask if name.endswith("loc") else batch.mask
    arrays[f"{label}/{name}_logits"] = _real(value, mask)
  for name, value in _names(setup, report.gradients).items():
    arrays[f"{label}/grad/{name}"] = value
  return arrays


def _step_scalars(
  setup: _Setup, label: str, state: reference.State, report: reference.Report
) -> dict[str, Any]:
  form, shapes = setup.config.hypernetwork, setup.shapes
  groups = hypernetwork.members(shapes, form)
  modes = {
    name: names.index(name) for names in groups.values() for name in names
  }
  scalars: dict[str, Any] = {**report.scalars, "batch": label}
  scalars["grad_norm_preclip"] = state.norm
  squares = [(leaf**2).sum() for leaf in jax.tree.leaves(report.gradients)]
  scalars["grad_fro_unclipped"] = np.sqrt(sum(squares))
  scalars["edit_lrs_after"] = state.params["edit_lrs"]
  scalars["modes"] = [modes[n] if form.shared else None for n in shapes]
  scalars["rows"] = [int(report.factors.mask[name].sum()) for name in shapes]
  true, pseudo, update = (
    [np.asarray(_dense(factors)[name]) for name in shapes]
    for factors in (report.factors, report.pseudo, report.edit)
  )
  norm = np.linalg.norm
  scalars["true_grad_fro"] = [norm(value) for value in true]
  scalars["pseudo_fro"] = [norm(value) for value in pseudo]
  scalars["update_fro"] = [norm(value) for value in update]
  scalars["cos"] = [
    (t * p).sum() / norm(t) / norm(p) for t, p in zip(true, pseudo, strict=True)
  ]
  return {f"{label}/{key}": value for key, value in scalars.items()}


def _dense(value: Any) -> dict[str, jax.Array]:
  if isinstance(value, LowRankEdit):
    return value.dense()
  kept = {
    name: jnp.where(value.mask[name][..., None], value.x[name], 0)
    for name in value.x
  }
  return LowRankEdit(u=kept, v=dict(value.delta)).combined().dense()


def _updates(setup: _Setup, label: str, edit: LowRankEdit) -> dict[str, Any]:
  dense = edit.dense()
  return {
    f"{label}/update{i}": dense[name].T if transposed else dense[name]
    for i, (name, _, _, transposed) in enumerate(setup.matrices)
  }


def _moments(pair: Mapping[str, Moments]) -> dict[str, Any]:
  parts: dict[str, Any] = {"k": pair["x"].count[None]}
  for letter, moments in (("u", pair["x"]), ("v", pair["delta"])):
    parts[f"{letter}_mean"] = moments.mean
    parts[f"{letter}_std"] = deviation(moments)
    parts[f"{letter}_s"] = moments.square
  return parts


def _statistics_key(setup: _Setup, name: str, shape: tuple[int, int]) -> str:
  shared = setup.config.hypernetwork.statistics_per == "shape"
  return hypernetwork.shape_key(shape) if shared else name


def _real(logits: jax.Array, mask: jax.Array) -> np.ndarray:
  return np.where(np.asarray(mask)[..., None] != 0, np.asarray(logits), np.nan)


@functools.partial(jax.jit, static_argnums=0)
def _episode(
  setup: _Setup, params: nnx.State, state: reference.State, batch: Any
) -> tuple[hypernetwork.Statistics, reference.Report]:
  return reference.episode(
    nnx.merge(setup.graph, params),
    state.params,
    state.statistics,
    setup.shapes,
    setup.config,
    batch,
  )


@functools.partial(jax.jit, static_argnums=0)
def _optimise(
  setup: _Setup, state: reference.State, gradients: Any
) -> reference.State:
  return reference.optimise(state, setup.config, gradients)


@functools.partial(jax.jit, static_argnums=0)
def _edit(
  setup: _Setup, params: nnx.State, state: reference.State, batch: Any
) -> tuple[LowRankEdit, jax.Array, jax.Array]:
  decoder = nnx.merge(setup.graph, params)
  edit = reference.make_edit(
    decoder, state.params, state.statistics, setup.shapes, setup.config, batch
  )
  logits = reference.forward(decoder, batch.tokens, batch.mask, edit.tap())
  return edit, logits, reference.edit_loss(logits, batch)[0]
