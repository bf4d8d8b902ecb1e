"""The released training step in plain PyTorch: one record at a time.

The whole model runs forward and backward for the inner gradient, every row with
a gradient goes through the network, the update is built as a dense matrix, and
whole sequences meet the head. Batches are those of `training.reference_data`
without the columns that only our fixed shapes need.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.peer import network
from benchmarks.peer.language_model import Peer
from benchmarks.peer.network import Moments
from instructedit_jax.editors import hypernetwork, reference
from instructedit_jax.editors.reference import ReferenceConfig


@dataclasses.dataclass
class Text:
  """One micro-step's tensors: [B, T] and, for what must stay, [C, T]."""

  tokens: torch.Tensor
  mask: torch.Tensor
  labels: torch.Tensor
  loc_tokens: torch.Tensor
  loc_mask: torch.Tensor
  answer_mask: torch.Tensor

  @classmethod
  def of(cls, batch: reference.Batch, device: Any = None) -> "Text":
    """Without columns of nothing but padding, and rows of it."""

    def tensor(array: Any) -> torch.Tensor:
      return torch.tensor(np.asarray(array), device=device).long()

    def columns(array: Any) -> np.ndarray:
      array = np.asarray(array)
      used = (array != -100) if (array == -100).any() else (array != 0)
      return array[:, int(used.any(0).argmax()) :]

    fill, loc_fill = int(batch.fill or 0), int(batch.loc_fill or 0)
    real = np.asarray(batch.loc_mask).any(1)
    return cls(
      tensor(np.asarray(batch.tokens)[:, fill:]),
      tensor(np.asarray(batch.mask)[:, fill:]),
      tensor(columns(batch.labels)),
      tensor(np.asarray(batch.loc_tokens)[real][:, loc_fill:]),
      tensor(np.asarray(batch.loc_mask)[real][:, loc_fill:]),
      tensor(np.asarray(batch.answer_mask)[real]),
    )


class Published:
  """The released editor and its training.

  Args:
    peer: the base model.
    config: the released values.
    state: our first (or any) state, whose numbers are taken over.
  """

  def __init__(
    self, peer: Peer, config: ReferenceConfig, state: reference.State
  ):
    self.peer, self.config = peer, config
    device = peer.device
    self.params = network.tensors(state.params, device, grad=True)
    self.statistics = {
      key: {side: Moments.of(m, device) for side, m in sides.items()}
      for key, sides in state.statistics.items()
    }
    self._shapes = {n: peer.config.matrix_shape(n) for n in peer.matrices}
    leaves = list(network.flat(self.params).values())
    self._adam = torch.optim.Adam(leaves, lr=config.lr)
    self._steps = 0
    # As released, gradients of the edited weights are computed as well.
    for module in peer.matrices.values():
      module.weight.requires_grad_(True)

  def step(self, text: Text) -> dict[str, float]:
    """One micro-step; an update every `accumulate`-th."""
    losses = self.losses(text)
    (losses["l_total"] / self.config.accumulate).backward()
    self._steps += 1
    if self._steps % self.config.accumulate == 0:
      leaves = list(network.flat(self.params).values())
      torch.nn.utils.clip_grad_norm_(leaves, self.config.grad_clip)
      self._adam.step()
      self._adam.zero_grad()
    return {name: float(value.detach()) for name, value in losses.items()}

  def losses(self, text: Text) -> dict[str, torch.Tensor]:
    """The losses of one edit; the statistics grow."""
    with torch.no_grad():
      base = self._logits(text.loc_tokens, text.loc_mask)
    update = self.updates(text, grow=True)
    edited = {
      self.peer.parameter(name): self.peer.update(name, delta)
      for name, delta in update.items()
    }
    after = self._logits(text.tokens, text.mask, edited)
    l_edit = _edit_loss(after, text.labels)
    after = self._logits(text.loc_tokens, text.loc_mask, edited)
    l_loc = _locality_loss(base, after, text.answer_mask)
    total = self.config.cedit * l_edit + self.config.cloc * l_loc
    return {"l_edit": l_edit, "l_loc": l_loc, "l_total": total}

  def updates(self, text: Text, grow: bool = False) -> dict[str, torch.Tensor]:
    """The dense update [n, m] of every matrix."""
    inputs, deltas = self._factors(text)
    form, found = self.config.hypernetwork, {}
    groups = hypernetwork.members(self._shapes, form)
    for index, (name, shape) in enumerate(self._shapes.items()):
      key = hypernetwork.shape_key(shape)
      x, d = inputs[name].flatten(0, 1), deltas[name].flatten(0, 1)
      kept = (x != 0).any(-1) & (d != 0).any(-1)
      x, d = x[kept].float(), d[kept].float()
      seen = self.statistics[key]
      if grow:
        seen["x"].fold(x)
        seen["delta"].fold(d)
      rows = torch.cat([seen["x"].whiten(x), seen["delta"].whiten(d)], -1)
      net = next(n for n, names in groups.items() if name in names)
      mode = groups[net].index(name)
      out = network.run(
        self.params["networks"][net]["both"],
        rows,
        torch.full((len(rows),), mode, device=rows.device),
        form,
      )
      u, v = out[:, : shape[0]], out[:, shape[0] :]
      found[name] = self.params["edit_lrs"][index] * (u.T @ v)
    return found

  def _factors(self, text: Text) -> tuple[dict, dict]:
    """Inputs and output gradients of every matrix, [B, T, ...]."""
    inputs: dict[str, torch.Tensor] = {}
    deltas: dict[str, torch.Tensor] = {}
    handles = []
    for name, module in self.peer.matrices.items():

      def hook(m: Any, x: Any, y: torch.Tensor, name: str = name) -> None:
        inputs[name] = x[0].detach()
        y.register_hook(lambda g: deltas.__setitem__(name, g.detach()))

      handles.append(module.register_forward_hook(hook))
    loss = _edit_loss(self._logits(text.tokens, text.mask), text.labels)
    for handle in handles:
      handle.remove()
    loss.backward()
    for module in self.peer.matrices.values():
      module.weight.grad = None
    return inputs, deltas

  def _logits(
    self,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    edited: dict[str, torch.Tensor] | None = None,
  ) -> torch.Tensor:
    # Positions run over the padding, as released.
    places = torch.arange(tokens.shape[1], device=tokens.device)[None]
    given = {
      "input_ids": tokens,
      "attention_mask": mask,
      "position_ids": places.expand_as(tokens),
      "use_cache": False,
    }
    lm = self.peer.lm
    if edited is None:
      return lm(**given).logits.float()
    return torch.func.functional_call(lm, edited, (), given).logits.float()


def _edit_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
  predicted = logits[:, :-1][:, -labels.shape[1] :]
  return functional.cross_entropy(
    predicted.flatten(0, 1), labels.flatten(), ignore_index=-100
  )


def _locality_loss(
  base: torch.Tensor, post: torch.Tensor, answer_mask: torch.Tensor
) -> torch.Tensor:
  width = answer_mask.shape[1]
  base = base[:, -width:].log_softmax(-1)
  post = post[:, -width:].log_softmax(-1)
  gap = (base.exp() * (base - post)).sum(-1)
  return (gap * answer_mask).sum() / answer_mask.sum()
