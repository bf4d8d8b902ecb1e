"""Construction of instructions: written by a language model, kept by score.

A writer (a chat endpoint or a local model) proposes descriptions of a task; a
trial editor edits with each of them; the scores go back to the writer, until
the best ones get no better on records it never hears of.
"""

from instructedit_jax.instructing.endpoint import Endpoint, EndpointConfig
from instructedit_jax.instructing.scoring import EditorScorer, Score, Scorer
from instructedit_jax.instructing.search import Settings, search

__all__ = [
  "EditorScorer",
  "Endpoint",
  "EndpointConfig",
  "Score",
  "Scorer",
  "Settings",
  "search",
]
