"""The hypernetwork on rows, and running statistics, in PyTorch.

Parameters are nested dicts and lists of tensors under the names that ours have,
so that numbers can be carried over and compared leaf by leaf.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch

from instructedit_jax.editors.hypernetwork import HypernetworkConfig


def tensors(tree: Any, device: Any = None, grad: bool = False) -> Any:
  """A pytree of JAX arrays as tensors."""

  def convert(leaf: Any) -> torch.Tensor:
    value = torch.tensor(np.asarray(leaf), device=device)
    return value.requires_grad_() if grad else value

  return jax.tree.map(convert, tree)


class Moments:
  """Count, mean and sum of squared differences of rows seen."""

  def __init__(self, count: Any, mean: torch.Tensor, square: torch.Tensor):
    self.count, self.mean, self.square = float(count), mean, square

  @classmethod
  def of(cls, moments: Any, device: Any = None) -> "Moments":
    """From our statistics."""
    mean, square = (
      torch.tensor(np.asarray(v), device=device)
      for v in (moments.mean, moments.square)
    )
    return cls(moments.count, mean, square)

  def fold(self, rows: torch.Tensor) -> None:
    """Adds rows [N, n]."""
    count = len(rows)
    if not count:
      return
    mean = rows.mean(0)
    gap, total = mean - self.mean, self.count + count
    spread = (rows - mean).square().sum(0)
    share = self.count * count / total
    self.square = self.square + spread + gap.square() * share
    self.mean = self.mean + gap * (count / total)
    self.count = total

  def whiten(self, rows: torch.Tensor, least: float = 1e-7) -> torch.Tensor:
    """(rows - mean) / (deviation + least); without two rows it counts as 1."""
    if self.count < 2:
      return (rows - self.mean) / (1 + least)
    deviation = (self.square / (self.count - 1)).sqrt()
    return (rows - self.mean) / (deviation + least)


def run(
  layers: list[dict[str, torch.Tensor]],
  h: torch.Tensor,
  modes: torch.Tensor,
  config: HypernetworkConfig,
  changes: list[Any] | None = None,
  owner: torch.Tensor | None = None,
) -> torch.Tensor:
  """Sends rows h [N, D] of given modes [N] through one network.

  Args:
    layers: its parameters.
    h: whitened rows.
    modes: which matrix a row is of.
    config: its form.
    changes: for each layer, changes [B, D] of scale and shift.
    owner: [N], which request a row is of.

  Raises:
    ValueError: another activation than the published one.
  """
  if config.activation != "relu":
    raise ValueError(f"activation {config.activation!r}: only relu is known")
  for index, layer in enumerate(layers):
    p = (h @ layer["v"]) @ layer["u"] + layer["bias"]
    if "scale" in layer:
      scale, shift = layer["scale"][modes], layer["shift"][modes]
    else:
      scale, shift = torch.ones(()), torch.zeros(())
    if changes is not None:
      scale = scale + changes[index][0][owner]
      shift = shift + changes[index][1][owner]
    p = p * scale + shift
    if config.last_clamp or index < len(layers) - 1:
      p = p.clamp(min=0)  # its derivative at exactly 0 is 1
    h = h + p if config.init == "identity" else p
  return h


def flat(tree: Any) -> dict[str, torch.Tensor]:
  """Tensors by their dotted paths."""
  found: dict[str, torch.Tensor] = {}

  def walk(value: Any, path: str) -> None:
    if isinstance(value, Mapping):
      for key, below in value.items():
        walk(below, f"{path}.{key}")
    elif isinstance(value, list | tuple):
      for key, below in enumerate(value):
        walk(below, f"{path}.{key}")
    else:
      found[path] = value

  walk(tree, "")
  return found
