"""How well edits work: one at a time, on plain and on instructed questions."""

from instructedit_jax.evaluation.baseline import Baseline
from instructedit_jax.evaluation.independent import evaluate
from instructedit_jax.evaluation.options import (
  BARE,
  INSTRUCTED,
  QUERIES,
  Options,
)
from instructedit_jax.evaluation.results import RecordResult, Results, Row

__all__ = [
  "BARE",
  "INSTRUCTED",
  "QUERIES",
  "Baseline",
  "Options",
  "RecordResult",
  "Results",
  "Row",
  "evaluate",
]
