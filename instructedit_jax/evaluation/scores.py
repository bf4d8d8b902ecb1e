"""From what the models said to the scores of one record."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from instructedit_jax.evaluation.generations import Generated
from instructedit_jax.evaluation.items import (
  ANSWERED,
  LOCALITY,
  OPPOSITE,
  SAME,
  Item,
)
from instructedit_jax.evaluation.predictions import Prediction
from instructedit_jax.metrics import summary
from instructedit_jax.metrics.generated import gives, normalise
from instructedit_jax.metrics.teacher_forced import (
  edit_success,
  exact,
  token_share,
)

EDIT_SUCCESS, FLUENCY = "edit_success", "fluency"
# Every metric there is, in the order of tables.
METRICS = (
  *(f"{m}_{s}" for s in ("em", "token", "free") for m in ANSWERED),
  *(f"{LOCALITY}_{s}" for s in ("token", "em", "free", "kl")),
  EDIT_SUCCESS,
  FLUENCY,
)
# What a table opens with; the other metrics follow in a table of their own.
HEADLINE = (
  "reliability_em",
  "reliability_free",
  "generalization_em",
  "portability_em",
  "locality_token",
  EDIT_SUCCESS,
  FLUENCY,
)
_NATS = (f"{LOCALITY}_kl",)


def item_scores(
  item: Item,
  predictions: Sequence[Prediction],
  generated: Generated | None,
  *,
  free: bool = True,
) -> dict[str, float]:
  """Scores of one item between 0 and 1 (kl: nats), by what follows the "_".

  Args:
    item: the question.
    predictions: one for each of its answers.
    generated: its free answers, if there are any.
    free: whether a free answer can be told right from wrong at all; replies
      of a conversation cannot.
  """
  first = predictions[0]
  if item.metric == LOCALITY:
    scores = {
      "token": token_share(first.before, first.after),
      "em": exact(first.before, first.after),
      "kl": float(first.divergence.mean()),
    }
    if generated is not None and generated.before is not None:
      same = normalise(generated.before) == normalise(generated.after)
      scores["free"] = float(same)
    return scores
  scores = {
    "em": max(exact(p.labels, p.after) for p in predictions),
    "token": token_share(first.labels, first.after),
  }
  if generated is not None and free:
    right = any(gives(generated.after, answer) for answer in item.answers)
    scores["free"] = float(right)
  return scores


def record_scores(
  items: Sequence[Item],
  scores: Sequence[dict[str, float]],
  predictions: Sequence[Sequence[Prediction]],
) -> dict[str, float]:
  """A record's score by metric, in percent (kl: nats); only those it has.

  Args:
    items: the record's questions.
    scores: `item_scores` of each.
    predictions: of each item's answers.
  """
  values: dict[str, list[tuple[str, float]]] = {}
  for item, of_item in zip(items, scores, strict=True):
    for suffix, score in of_item.items():
      name = f"{item.metric}_{suffix}"
      values.setdefault(name, []).append((item.kind, score))
  found = {}
  for name in METRICS:
    mean = summary.record_mean(values.get(name, ()))
    if mean is not None:
      found[name] = mean if name in _NATS else 100 * mean
  success = _edit_success(items, predictions)
  if success is not None:
    found[EDIT_SUCCESS] = 100 * success
  return found


def _edit_success(
  items: Sequence[Item], predictions: Sequence[Sequence[Prediction]]
) -> float | None:
  """None where a record lacks replies of one of the sentiments."""

  def replies(metric: str) -> list[Prediction]:
    return [
      given[0]
      for item, given in zip(items, predictions, strict=True)
      if item.metric == metric
    ]

  same, opposite = replies(SAME), replies(OPPOSITE)
  if not same or not opposite:
    return None
  return edit_success(
    [p.log_after for p in same],
    [p.log_after for p in opposite],
    [p.log_before for p in same],
  )


def item_row(
  item: Item,
  predictions: Sequence[Prediction],
  generated: Generated | None,
  scores: dict[str, float],
  decode: Callable[[Iterable[int]], str],
) -> dict[str, Any]:
  """All there is to know about one item, for JSON; scores between 0 and 1.

  `before` and `after` are the likeliest tokens at the positions of the first
  answer, each after the right tokens; `free_` are the generated texts.
  """
  first = predictions[0]
  row: dict[str, Any] = {
    "metric": item.metric,
    "kind": item.kind,
    "prompt": item.prompt,
    "answers": list(item.answers),
    "before": decode(first.before),
    "after": decode(first.after),
    "log_p_before": _rounded(first.log_before),
    "log_p_after": _rounded(first.log_after),
    "scores": {name: round(value, 6) for name, value in scores.items()},
  }
  if generated is not None:
    if generated.before is not None:
      row["free_before"] = generated.before
    row["free_after"] = generated.after
  return row


def _rounded(values: np.ndarray) -> float:
  """Mean log-probability of an answer's token."""
  return round(float(values.mean()), 4)
