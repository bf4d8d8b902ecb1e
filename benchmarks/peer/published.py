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
  """One micro-step's tensors: [B, T] and, for what must stay, [C, T].

  `same` [B] is there for opinions only: which strings are of the wanted sort.
  """

  tokens: torch.Tensor
  mask: torch.Tensor
  labels: torch.Tensor
  loc_tokens: torch.Tensor
  loc_mask: torch.Tensor
  answer_mask: torch.Tensor
  same: torch.Tensor | None = None

  @classmethod
  def of(cls, batch: reference.Batch, device: Any = None) -> "Text":
    """Without columns of nothing but padding, and rows of it."""

    def tensor(array: Any) -> torch.Tensor:
      return torch.tensor(np.asarray(array), device=device).long()

    fill, loc_fill = int(batch.fill or 0), int(batch.loc_fill or 0)
    mask, kept = np.asarray(batch.mask), np.asarray(batch.loc_mask)
    rows, others = mask.any(1), kept.any(1)
    labels, answers = np.asarray(batch.labels), np.asarray(batch.answer_mask)
    same = None
    if batch.same is None:
      labels = labels[:, int((labels != -100).any(0).argmax()) :]
    else:
      labels, answers = labels[:, fill:], answers[:, loc_fill:]
      same = torch.tensor(np.asarray(batch.same)[rows], device=device)
    return cls(
      tensor(np.asarray(batch.tokens)[rows, fill:]),
      tensor(mask[rows, fill:]),
      tensor(labels[rows]),
      tensor(np.asarray(batch.loc_tokens)[others, loc_fill:]),
      tensor(kept[others, loc_fill:]),
      tensor(answers[others]),
      same,
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
    l_edit = _edit_loss(after, text)
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
      # Only training needs the network's own gradient.
      with torch.set_grad_enabled(grow):
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
      # As released, the gradients of the weights are computed as well.
      module.weight.requires_grad_(True)

      def hook(m: Any, x: Any, y: torch.Tensor, name: str = name) -> None:
        inputs[name] = x[0].detach()
        y.register_hook(lambda g: deltas.__setitem__(name, g.detach()))

      handles.append(module.register_forward_hook(hook))
    with torch.enable_grad():
      loss = _edit_loss(self._logits(text.tokens, text.mask), text)
      loss.backward()
    for handle in handles:
      handle.remove()
    for module in self.peer.matrices.values():
      module.weight.requires_grad_(False)
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


def _edit_loss(logits: torch.Tensor, text: Text) -> torch.Tensor:
  labels, predicted = text.labels, logits[:, :-1]
  if text.same is None:
    return functional.cross_entropy(
      predicted[:, -labels.shape[1] :].flatten(0, 1),
      labels.flatten(),
      ignore_index=-100,
    )
  labels = labels[:, 1:]
  real = labels != -100
  log_p = predicted.log_softmax(-1)
  log_p = log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
  wanted = real & text.same[:, None]
  # Single precision's epsilon, whatever the precision.
  unlikely = torch.log(1 - log_p.exp() + torch.finfo(torch.float32).eps)
  return -log_p[wanted].mean() - unlikely[real & ~wanted].mean()


def _locality_loss(
  base: torch.Tensor, post: torch.Tensor, answer_mask: torch.Tensor
) -> torch.Tensor:
  width = answer_mask.shape[1]
  base = base[:, -width:].log_softmax(-1)
  post = post[:, -width:].log_softmax(-1)
  gap = (base.exp() * (base - post)).sum(-1)
  return (gap * answer_mask).sum() / answer_mask.sum()
