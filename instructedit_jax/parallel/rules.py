"""Which array is divided along which mesh axis: (regex, axes) rules.

An array is known by its dotted path ("suffix_blocks.0.mlp.up.kernel"). Every
array must match exactly one rule besides the last, which catches the rest, so
that the order of rules never matters and a slip shows at once.
"""

import dataclasses
import re
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from instructedit_jax.errors import UserError
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.parallel.mesh import DATA, MODEL

# What one axis of an array is divided among.
Axis = str | tuple[str, ...] | None
Rules = tuple[tuple[str, tuple[Axis, ...]], ...]

_SHOWN = 4
# The frozen blocks are stacked; rules speak of one block's array.
_STACK = re.compile(r"(^|\.)prefix_blocks\.")


@dataclasses.dataclass(frozen=True)
class ShardingConfig:
  """Rules for everything a step reads; empty takes our own.

  A rule is (regex, axes): `re.search` on an array's path, and for each of its
  first axes None, "data", "model" or a tuple of both. The last regex must be
  ".*". Our own rules leave an axis whole where it does not divide; rules given
  here are taken at their word.

  Attributes:
    fsdp: our own rules divide base weights, editor and optimizer state over
      `data` too, and a step gathers them when it needs them: less memory for
      more traffic.
    weights: of the base model.
    editor: parameters and statistics.
    optimizer: its state; empty takes the editor's rules, since the arrays of a
      state have the paths of the parameters at their end.
    batch: one step's input; the first axis of each is the episodes'.
  """

  fsdp: bool = False
  weights: Rules = ()
  editor: Rules = ()
  optimizer: Rules = ()
  batch: Rules = ()

  def __post_init__(self):
    for field in ("weights", "editor", "optimizer", "batch"):
      rules = _checked(getattr(self, field), f"config.sharding.{field}")
      object.__setattr__(self, field, rules)

  def weights_for(self, model: DecoderConfig, mesh: Mesh) -> Rules:
    """The rules for a decoder's parameters: tensor parallel over `model`.

    A block's first matrices are divided by their outputs and its last by its
    inputs, so one sum over devices a half block is all the traffic
    (arXiv 1909.08053). Attention is divided by heads or not at all.
    """
    if self.weights:
      return self.weights
    rest = DATA if self.fsdp else None
    size = mesh.shape[MODEL]
    whole_heads = model.heads % size == 0 and model.kv_heads % size == 0
    heads = MODEL if whole_heads else None
    # 50257 tokens divide by nothing.
    by_token = model.vocab % size == 0
    return (
      (r"^embedding$", (MODEL, rest) if by_token else (None, MODEL)),
      (r"^head\.kernel$", (rest, MODEL) if by_token else (MODEL, rest)),
      (r"\.attention\.(q|k|v)\.kernel$", (rest, heads)),
      (r"\.attention\.(q|k|v)\.bias$", (heads,)),
      (r"\.attention\.out\.kernel$", (heads, rest)),
      (r"\.mlp\.(gate|up)\.kernel$", (rest, MODEL)),
      (r"\.mlp\.(gate|up)\.bias$", (MODEL,)),
      (r"\.mlp\.down\.kernel$", (MODEL, rest)),
      (".*", ()),
    )

  def editor_rules(self) -> Rules:
    """The rules for editor and statistics: networks divided by their rank."""
    rest = DATA if self.fsdp else None
    return self.editor or (
      (r"\.\d+\.v$", (rest, MODEL)),
      (r"\.\d+\.u$", (MODEL, rest)),
      (".*", ()),
    )

  def optimizer_rules(self) -> Rules:
    """The rules for the optimizer's state."""
    return self.optimizer or self.editor_rules()

  def batch_rules(self) -> Rules:
    """The rules for one step's input."""
    return self.batch or ((".*", (DATA,)),)


def shardings(
  tree: Any, rules: Rules, mesh: Mesh, where: str, exact: bool = True
) -> Any:
  """A `NamedSharding` for every array of a tree.

  Args:
    tree: pytree of arrays or `jax.ShapeDtypeStruct`. Scalars and arrays
      without elements are never divided.
    rules: see `ShardingConfig`.
    mesh: gives the axes their sizes.
    where: the rules' name in the configuration, for errors.
    exact: False leaves an axis whole that does not divide, and logs it.

  Raises:
    UserError: an array matches two rules, has fewer axes than its rule, or an
      axis that does not divide.
  """
  flat, structure = jax.tree_util.tree_flatten_with_path(tree)
  left: list[str] = []
  found = []
  for keys, leaf in flat:
    path = dotted(keys)
    spec: tuple[Axis, ...] = ()
    if leaf.size and leaf.ndim:
      spec = _fitted(
        path, leaf.shape, rules, mesh, where, left if not exact else None
      )
    found.append(NamedSharding(mesh, PartitionSpec(*spec)))
  if left:
    more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    logging.info(
      "%s: left whole, sizes do not divide: %s%s",
      where,
      ", ".join(left[:_SHOWN]),
      more,
    )
  return jax.tree_util.tree_unflatten(structure, found)


def divides(tree: Any) -> bool:
  """Whether any sharding of a tree divides an array among several devices."""
  return any(not s.is_fully_replicated for s in jax.tree.leaves(tree))


def dotted(keys: Any) -> str:
  """A key path as text; the wrappers of parameters do not show."""
  names = [jax.tree_util.keystr((key,), simple=True) for key in keys]
  return ".".join(n for n in names if n not in ("value", "raw_value"))


def _fitted(
  path: str,
  shape: tuple[int, ...],
  rules: Rules,
  mesh: Mesh,
  where: str,
  left: list[str] | None,
) -> tuple[Axis, ...]:
  """The axes of one array; what does not divide goes to `left` or raises."""
  pattern, spec = _matching(path, rules, where)
  if spec and _STACK.search(path):
    spec = (None, *spec)
  if len(spec) > len(shape):
    raise UserError(
      f"{where}: rule {pattern!r} names {len(spec)} axes, {path} has"
      f" {len(shape)}: {list(shape)}"
    )
  fitted: list[Axis] = []
  for index, (axis, size) in enumerate(zip(spec, shape, strict=False)):
    names = (axis,) if isinstance(axis, str) else axis or ()
    count = 1
    for name in names:
      count *= mesh.shape[name]
    if size % count == 0:
      fitted.append(axis)
    elif left is not None:
      fitted.append(None)
      left.append(f"axis {index} ({size}) of {path}")
    else:
      fits = [str(n) for n in range(1, mesh.size + 1) if size % n == 0]
      raise UserError(
        f"{where}: rule {pattern!r} divides axis {index} of {path}, {size}"
        f" long, among the {count} devices of {' x '.join(names)}; it divides"
        f" among {', '.join(fits)}. Change config.mesh or the rule."
      )
  return tuple(fitted)


def _matching(
  path: str, rules: Rules, where: str
) -> tuple[str, tuple[Axis, ...]]:
  matches = [rule for rule in rules[:-1] if re.search(rule[0], path)]
  if len(matches) > 1:
    names = " and ".join(repr(pattern) for pattern, _ in matches)
    raise UserError(
      f"{where}: {path} matches {names}; make one of them narrower"
    )
  return matches[0] if matches else rules[-1]


def _checked(raw: Any, where: str) -> Rules:
  """Tuples of tuples, whatever a configuration file made them."""
  rules = []
  for rule in raw:
    if not (
      isinstance(rule, tuple | list)
      and len(rule) == 2
      and isinstance(rule[0], str)
      and isinstance(rule[1], tuple | list)
    ):
      raise UserError(
        f"{where}: {rule!r} is no (regex, axes) rule, such as"
        " ('kernel$', ('data', 'model'))"
      )
    pattern, axes = rule
    try:
      re.compile(pattern)
    except re.error as error:
      raise UserError(f"{where}: {pattern!r} is no regex: {error}") from error
    axes = tuple(tuple(a) if isinstance(a, list) else a for a in axes)
    used = [n for a in axes if a for n in ((a,) if isinstance(a, str) else a)]
    if set(used) - {DATA, MODEL} or len(set(used)) < len(used):
      raise UserError(
        f"{where}: {axes!r} of rule {pattern!r}: each axis is None, {DATA!r},"
        f" {MODEL!r} or both in a tuple, and none is used twice"
      )
    rules.append((pattern, axes))
  if rules and rules[-1][0] != ".*":
    raise UserError(
      f"{where}: the last rule must be ('.*', ...), for all other arrays"
    )
  return tuple(rules)
