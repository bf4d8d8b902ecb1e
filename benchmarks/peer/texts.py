"""Episodes and records as padded token batches for PyTorch.

Padding stands on the right, where causal attention never sees it. Scored
positions are kept flat: which row, which token, and what it should be.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from instructedit_jax.editing.sequences import Scored
from instructedit_jax.training.episodes import Episode, Kind


@dataclasses.dataclass
class Texts:
  """Q sequences with N scored positions.

  Attributes:
    tokens: [Q, T].
    row, column: [N], where each scored position stands.
    labels: [N], what it predicts.
    owner: [Q], which request's edit a sequence is asked of.
  """

  tokens: torch.Tensor
  row: torch.Tensor
  column: torch.Tensor
  labels: torch.Tensor
  owner: torch.Tensor

  def scored(self, values: torch.Tensor) -> torch.Tensor:
    """Values [Q, T, ...] at the scored positions, [N, ...]."""
    return values[self.row, self.column]


@dataclasses.dataclass
class Step:
  """One training batch of B episodes.

  Attributes:
    edit: B requests.
    told: B instructions; nothing is scored.
    given: bool [B], whether the editor may see them.
    keep, ask: out-of-scope and in-scope queries.
    keep_weight, ask_weight: shares of their row's loss.
    avoid: bool, in-scope positions whose labels must become unlikely.
  """

  edit: Texts
  told: Texts
  given: torch.Tensor
  keep: Texts
  ask: Texts
  keep_weight: torch.Tensor
  ask_weight: torch.Tensor
  avoid: torch.Tensor


def texts(
  sequences: Sequence[Scored], owner: Sequence[int], device: Any = None
) -> Texts:
  """Pads sequences to the longest."""
  width = max((len(s.tokens) for s in sequences), default=1)
  tokens = np.zeros((len(sequences), width), np.int64)
  row: list[int] = []
  column: list[int] = []
  labels: list[int] = []
  for number, sequence in enumerate(sequences):
    length, ends = len(sequence.tokens), len(sequence.labels)
    tokens[number, :length] = sequence.tokens
    row += [number] * ends
    column += range(length - ends, length)
    labels += sequence.labels

  def tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values, np.int64), device=device)

  return Texts(*map(tensor, (tokens, row, column, labels, owner)))


def training_step(
  episodes: Sequence[Episode],
  told: Sequence[Scored],
  chosen: Sequence[Sequence[tuple[Kind, Scored]]],
  device: Any = None,
) -> Step:
  """A batch of episodes.

  Args:
    episodes: each edited through one prompt.
    told: their instructions.
    chosen: the queries of each, as `training.batches.fitting` chose them.
    device: of the tensors.
  """
  sides: dict[bool, list] = {True: [], False: []}
  for owner, row in enumerate(chosen):
    for kind, scored in row:
      count = sum(other is kind for other, _ in row)
      share = 1 / (count * len(scored.labels))
      sides[kind is Kind.KEEP].append((owner, kind, scored, share))

  def weights(side: list) -> torch.Tensor:
    flat = [w for _, _, s, w in side for _ in s.labels]
    return torch.tensor(flat, device=device)

  def side_texts(side: list) -> Texts:
    return texts([s for _, _, s, _ in side], [o for o, *_ in side], device)

  keep, ask = sides[True], sides[False]
  avoid = [k is Kind.AVOID for _, k, s, _ in ask for _ in s.labels]
  whose = range(len(episodes))
  if any(len(episode.edit) != 1 for episode in episodes):
    raise ValueError("only edits through a single prompt are implemented")
  return Step(
    texts([episode.edit[0] for episode in episodes], whose, device),
    texts(told, whose, device),
    torch.tensor([episode.told for episode in episodes], device=device),
    side_texts(keep),
    side_texts(ask),
    weights(keep),
    weights(ask),
    torch.tensor(avoid, dtype=torch.bool, device=device),
  )
