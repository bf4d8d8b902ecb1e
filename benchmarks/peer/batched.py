"""Our editor and its training step as a good PyTorch engineer would write them.

Requests are batched; hooks read factors and apply factored edits; the head runs
on scored positions alone; only real rows meet the network; an instruction is
read once. What is left out is what the whole-model code of transformers does
not offer: states of the frozen blocks kept between calls, and sequences packed
into rows.
"""

from typing import Any

import torch
from torch.nn import functional

from benchmarks.peer import network
from benchmarks.peer.language_model import Peer, Tap
from benchmarks.peer.network import Moments
from benchmarks.peer.texts import Step, Texts
from instructedit_jax.editors import hypernetwork
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.training.losses import LossConfig
from instructedit_jax.training.step import OptimizerConfig

# name -> [B, R, n or m].
Side = dict[str, torch.Tensor]
# name -> inputs [N, n] and gradients [N, m] of rows, and whose they are [N].
Rows = dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


class Batched:
  """The editor, its statistics and its optimizer.

  Args:
    peer: the base model.
    config: the editor; its network must be "combined".
    params, statistics: ours, whose numbers are taken over.
    loss, optimizer: as ours.
  """

  def __init__(
    self,
    peer: Peer,
    config: EditorConfig,
    params: Any,
    statistics: Any,
    loss: LossConfig,
    optimizer: OptimizerConfig,
  ):
    self.peer, self.config, self._loss = peer, config, loss
    device = peer.device
    self.params = network.tensors(params, device, grad=True)
    self.statistics = {
      key: {side: Moments.of(m, device) for side, m in sides.items()}
      for key, sides in statistics.items()
    }
    self._clip = optimizer.clip
    self._shapes = {n: peer.config.matrix_shape(n) for n in peer.matrices}
    self._told: dict[tuple[int, ...], torch.Tensor] = {}
    rates = [self.params["rates"]]
    others = [
      leaf
      for path, leaf in network.flat(self.params).items()
      if not path.startswith(".rates")
    ]
    self._groups = (others, rates)
    self._adam = torch.optim.Adam(
      [
        {"params": others, "lr": optimizer.learning_rate},
        {"params": rates, "lr": optimizer.rates_learning_rate},
      ],
      betas=(0.9, optimizer.b2),
    )

  def step(self, batch: Step) -> dict[str, float]:
    """One training step."""
    self._adam.zero_grad()
    losses = self.losses(batch)
    losses["loss"].backward()
    for group in self._groups:
      torch.nn.utils.clip_grad_norm_(group, self._clip)
    self._adam.step()
    return {name: float(value.detach()) for name, value in losses.items()}

  def losses(self, batch: Step) -> dict[str, torch.Tensor]:
    """The losses of a batch of edits; the statistics grow."""
    keep, ask = batch.keep, batch.ask
    with torch.no_grad():
      base = self.peer.head(keep.scored(self.peer.hidden(keep.tokens)))
    edit = self.propose(batch.edit, batch.told, batch.given, grow=True)
    after = self.after(keep, edit)
    wanted = base.log_softmax(-1)
    gap = (wanted.exp() * (wanted - after.log_softmax(-1))).sum(-1)
    count = len(batch.given)
    kept = (gap * batch.keep_weight).sum() / count
    logits = self.after(ask, edit)
    log_p = -functional.cross_entropy(logits, ask.labels, reduction="none")
    log_not_p = torch.log1p(-torch.exp(log_p.clamp(max=-1e-4)))
    nll = torch.where(batch.avoid, -log_not_p, -log_p)
    asked = (nll * batch.ask_weight).sum() / count
    total = self._loss.edit * asked + self._loss.keep * kept
    return {"loss": total, "edit_loss": asked, "locality_kl": kept}

  def after(self, texts: Texts, edit: tuple[Side, Side] | None) -> torch.Tensor:
    """Logits [N, V] of scored positions, of the edited model."""
    tap = None if edit is None else _tap(edit, texts.owner)
    return self.peer.head(texts.scored(self.peer.hidden(texts.tokens, tap)))

  def propose(
    self,
    requests: Texts,
    told: Texts | None,
    given: torch.Tensor | None,
    grow: bool = False,
  ) -> tuple[Side, Side]:
    """Factored edits (u, v) of B requests, [B, R, ...]; told: instructions."""
    edit: tuple[Side, Side] | None = None
    pooled = None
    if self.config.conditioned and told is not None:
      pooled = self._pooled(told)
    for index in range(self.config.rounds):
      fixed = edit and tuple(
        {name: value.detach() for name, value in side.items()} for side in edit
      )
      rows = self._factors(requests, fixed)
      if grow and index == 0:
        for name, (x, d, _) in rows.items():
          seen = self._seen(name)
          seen["x"].fold(x)
          seen["delta"].fold(d)
        if pooled is not None:
          said = pooled if given is None else pooled[given]
          self.statistics["instruction"]["pooled"].fold(said)
      # Only training needs the network's own gradient.
      with torch.set_grad_enabled(grow):
        more = self._round(requests, rows, pooled, given, index)
      if edit is not None:
        more = _joined(edit[0], more[0]), _joined(edit[1], more[1])
      edit = more
    assert edit is not None
    return edit

  def _pooled(self, told: Texts) -> torch.Tensor:
    """Embeddings of instructions, [B, 2 D]; there are few different ones."""
    # Padding stands on the right; instructions have no zero token inside.
    keys = [_stripped(row) for row in told.tokens.tolist()]
    for key in dict.fromkeys(keys):
      if key not in self._told:
        self._told[key] = self._embedding(key)
    return torch.stack([self._told[key] for key in keys])

  def _embedding(self, tokens: tuple[int, ...]) -> torch.Tensor:
    """Of its states in front of the first editable matrix, [2 D]."""
    found: list[torch.Tensor] = []
    gpt2 = self.peer.config.family == "gpt2"
    lm = self.peer.lm
    blocks = lm.transformer.h if gpt2 else lm.model.layers
    block = blocks[self.peer.config.first_editable]
    norm = block.ln_2 if gpt2 else block.post_attention_layernorm
    handle = norm.register_forward_hook(lambda m, x, y: found.append(x[0]))
    with torch.no_grad():
      self.peer.hidden(torch.tensor([tokens], device=self.peer.device))
    handle.remove()
    states = found[0][0].float()
    states = states[1:] if len(states) > 1 else states
    states = functional.rms_norm(states, states.shape[-1:], eps=1e-6)
    return torch.cat([states.mean(0), states[-8:].mean(0)])

  def _factors(self, requests: Texts, edit: Any) -> Rows:
    """Inputs and output gradients of the rows that make an edit."""
    inputs: Side = {}
    probes: Side = {}
    edited = None if edit is None else _tap(edit, requests.owner)

    def tap(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
      y = y if edited is None else edited(name, x, y)
      inputs[name] = x.detach()
      probes[name] = torch.zeros_like(y, requires_grad=True)
      return y + probes[name]

    logits = self.peer.head(
      requests.scored(self.peer.hidden(requests.tokens, tap))
    )
    nll = functional.cross_entropy(logits, requests.labels, reduction="none")
    counts = torch.bincount(requests.row, minlength=len(requests.tokens))
    loss = (nll / counts[requests.row]).sum()
    deltas = torch.autograd.grad(loss, list(probes.values()))
    found: Rows = {}
    for (name, x), d in zip(inputs.items(), deltas, strict=True):
      if self.config.rows == "answer":
        kept: tuple[torch.Tensor, ...] = (requests.row, requests.column)
      else:
        kept = torch.nonzero((x != 0).any(-1) & (d != 0).any(-1), as_tuple=True)
      found[name] = (x[kept].float(), d[kept].float(), kept[0])
    return found

  def _round(
    self,
    requests: Texts,
    rows: Rows,
    pooled: torch.Tensor | None,
    given: torch.Tensor | None,
    index: int,
  ) -> tuple[Side, Side]:
    config, params = self.config, self.params
    count = len(requests.tokens)
    rates = params["rates"].reshape(config.rounds, -1)[index].expand(count, -1)
    changes: Any = None
    if config.conditioned and pooled is not None:
      changes, factor = self._modulation(pooled, given)
      rates = rates * factor
    u, v = self._network(rows, changes)
    keys, values = {}, {}
    for number, name in enumerate(self._shapes):
      owner = rows[name][2]
      keys[name] = _padded(u[name], owner, count)
      step = -config.rate * rates[:, number]
      values[name] = _padded(v[name], owner, count) * step[:, None, None]
    if config.ridge:
      keys = self._decorrelate(keys)
    return keys, values

  def _network(self, rows: Rows, changes: Any) -> tuple[Side, Side]:
    """The network on the rows of all matrices of a shape at once."""
    form = self.config.network
    u: Side = {}
    v: Side = {}
    for net, names in hypernetwork.members(self._shapes, form).items():
      white = []
      for name in names:
        seen, (x, d, _) = self._seen(name), rows[name]
        pair = [seen["x"].whiten(x), seen["delta"].whiten(d)]
        white.append(torch.cat(pair, -1))
      counts = [len(part) for part in white]
      modes = torch.arange(len(names)).repeat_interleave(torch.tensor(counts))
      out = network.run(
        self.params["network"][net]["both"],
        torch.cat(white),
        modes.to(self.peer.device),
        form,
        None if changes is None else changes[net]["both"],
        torch.cat([rows[name][2] for name in names]),
      )
      n = self._shapes[names[0]][0]
      for name, part in zip(names, out.split(counts), strict=True):
        u[name], v[name] = part[:, :n], part[:, n:]
    return u, v

  def _modulation(
    self, pooled: torch.Tensor, given: torch.Tensor | None
  ) -> tuple[Any, torch.Tensor]:
    held = self.params["conditioner"]
    plain = self.statistics["instruction"]["pooled"].whiten(pooled, 0.02)
    code = functional.gelu(
      plain @ held["code"] + held["bias"], approximate="tanh"
    )
    if given is not None:
      code = torch.where(given[:, None], code, torch.zeros_like(code))
    changes = {
      net: {
        side: [[code @ table for table in layer] for layer in layers]
        for side, layers in sides.items()
      }
      for net, sides in held["layers"].items()
    }
    return changes, torch.exp(code @ held["rates"])

  def _decorrelate(self, keys: Side) -> Side:
    found = {}
    for name, x in keys.items():
      strength = self.params["ridge"][name].exp() / x.shape[-1]
      gram = x @ x.transpose(-1, -2) * strength
      eye = torch.eye(gram.shape[-1], device=x.device)
      found[name] = torch.linalg.solve(gram + eye, x)
    return found

  def _seen(self, name: str) -> dict[str, Moments]:
    per = self.config.network.statistics_per
    if per == "matrix":
      return self.statistics[name]
    return self.statistics[hypernetwork.shape_key(self._shapes[name])]


def _joined(old: Side, new: Side) -> Side:
  """Rows of both, those of `old` first."""
  return {name: torch.cat([old[name], new[name]], 1) for name in old}


def _stripped(tokens: list[int]) -> tuple[int, ...]:
  while tokens and not tokens[-1]:
    tokens = tokens[:-1]
  return tuple(tokens)


def _padded(
  rows: torch.Tensor, owner: torch.Tensor, count: int
) -> torch.Tensor:
  """Rows [N, n] of B requests, in their order, as [B, R, n]."""
  counts = torch.bincount(owner, minlength=count)
  starts = counts.cumsum(0) - counts
  place = torch.arange(len(rows), device=rows.device) - starts[owner]
  shape = (count, int(counts.max()), rows.shape[1])
  empty = torch.zeros(shape, device=rows.device)
  return empty.index_put((owner, place), rows)


def _tap(edit: Any, owner: torch.Tensor) -> Tap:
  """y + (x u^T) v with each sequence's own edit."""

  def act(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    u, v = edit[0][name][owner].to(x.dtype), edit[1][name][owner].to(x.dtype)
    return y + torch.bmm(torch.bmm(x, u.transpose(1, 2)), v)

  return act
