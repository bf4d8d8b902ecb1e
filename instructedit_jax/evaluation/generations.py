"""Texts of edited models, each prompt under the edit of its record."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from instructedit_jax.editing.sequences import bucket
from instructedit_jax.evaluation.baseline import BATCH, STOP, Baseline
from instructedit_jax.evaluation.items import (
  LOCALITY,
  OPPOSITE,
  RELIABILITY,
  SAME,
  Item,
)
from instructedit_jax.evaluation.options import Options
from instructedit_jax.models.generate import generate

_LIMITS = (16, 32, 64, 128)
_SPARE = 4  # tokens beyond the answer, to see whether it is over


@dataclasses.dataclass(frozen=True)
class Generated:
  """One item's free answers; `before` only where something needs it."""

  before: str | None
  after: str


@dataclasses.dataclass(frozen=True)
class _Owned:
  """A batch of edits as seen by prompts, several of which share an edit.

  Nothing is copied until a batch of prompts takes its rows.
  """

  edit: Any
  owners: np.ndarray
  batched: bool = True

  @property
  def matrices(self) -> tuple[str, ...]:
    """As of the edits."""
    return self.edit.matrices

  @property
  def count(self) -> int:
    """Of prompts, for each of which there is an edit."""
    return len(self.owners)

  def __getitem__(self, index: np.ndarray) -> Any:
    return self.edit[self.owners[index]]


def limit_of(answer_tokens: int) -> int:
  """New tokens that suffice for an answer of so many tokens."""
  return bucket(answer_tokens + _SPARE, _LIMITS)


def generated(item: Item) -> bool:
  """Whether an item is answered freely at all."""
  return item.metric not in (SAME, OPPOSITE)


def answers(
  baseline: Baseline,
  edit: Any,
  items: Sequence[Sequence[Item]],
  limits: Sequence[Sequence[int]],
) -> list[list[Generated | None]]:
  """Greedy answers of the edited model, and of the unedited where needed.

  Args:
    baseline: the model.
    edit: as in `predictions.predict`.
    items: those of each record.
    limits: new tokens at most, for each item.

  Returns:
    for each item its texts, or None where it is not generated.
  """
  found: list[list[Generated | None]] = [[None] * len(row) for row in items]
  places: dict[int, list[tuple[int, int]]] = {}
  for owner, row in enumerate(items):
    for number, item in enumerate(row):
      if generated(item):
        places.setdefault(limits[owner][number], []).append((owner, number))
  for limit, group in sorted(places.items()):
    prompts = [items[owner][number].prompt for owner, number in group]
    compared = [
      prompt
      for prompt, (owner, number) in zip(prompts, group, strict=True)
      if edit is None or items[owner][number].metric in (RELIABILITY, LOCALITY)
    ]
    base = dict(zip(compared, baseline.answers(compared, limit), strict=True))
    if edit is None:
      after = [base[prompt] for prompt in prompts]
    else:
      after = generate(
        baseline.model,
        prompts,
        max_new_tokens=limit,
        edit=_owned(edit, [owner for owner, _ in group]),
        stop=STOP,
        batch_size=BATCH,
      )
    for prompt, text, (owner, number) in zip(
      prompts, after, group, strict=True
    ):
      found[owner][number] = Generated(base.get(prompt), text)
  return found


def fluency_texts(
  baseline: Baseline,
  edit: Any,
  prompts: Sequence[str],
  options: Options,
  seed: int,
) -> list[str]:
  """One longer text a record, continuing its prompt.

  All have the same number of tokens, whether the model would end or not:
  fluency grows with length.

  Args:
    baseline: the model.
    edit: as in `predictions.predict`.
    prompts: one for each record, from the first on.
    options: how long, and how sampled.
    seed: of the sampling; a text depends on it and on its place.
  """
  sampled = options.fluency_top_k > 0
  model = baseline.model
  endless = dataclasses.replace(model.text, eos_ids=frozenset())
  return generate(
    dataclasses.replace(model, tokenizer=endless),
    prompts,
    max_new_tokens=options.fluency_tokens,
    edit=_owned(edit, range(len(prompts))),
    temperature=1.0 if sampled else 0.0,
    top_k=options.fluency_top_k if sampled else None,
    seed=seed,
    batch_size=BATCH,
  )


def _owned(edit: Any, owners: Sequence[int]) -> Any:
  if not getattr(edit, "batched", False):
    return edit
  return _Owned(edit, np.asarray(owners, np.int32))
