"""Episodes whose instruction says how far the edit reaches.

Half of them are meant for every wording, as all others are; half for the
request's own words alone: then its paraphrases have to keep their answers. The
requests are the same, so an editor that does not heed the instruction can only
strike a mean.
"""

import dataclasses

import numpy as np

from instructedit_jax.editing.sequences import Scored
from instructedit_jax.tasks import scopes
from instructedit_jax.tasks.record import Record
from instructedit_jax.training.episodes import Episode, EpisodeMaker, Kind


class ScopedMaker:
  """Draws as another maker does, and states a scope in some instructions.

  Args:
    make: draws the episodes.
    share: of them that get a scope; `EpisodeConfig.scoped`.
  """

  def __init__(self, make: EpisodeMaker, share: float):
    self._make, self._share = make, share

  def __call__(self, record: Record, rng: np.random.Generator) -> Episode:
    """Draws one episode for `record`."""
    if rng.random() >= self._share:
      return self._make(record, rng)
    scope = scopes.WIDE if rng.random() < 0.5 else scopes.VERBATIM
    own = self._make.instruction(record, rng)
    own = scopes.stated(own, scopes.draw(rng, scope))
    episode = self._make.about(record, own, rng)
    # What is not said cannot be heeded.
    if scope == scopes.WIDE or not episode.told:
      return episode
    return narrowed(episode, self._make.config.locality_tokens)


def narrowed(episode: Episode, tokens: int) -> Episode:
  """The episode with every in-scope query but the first out of scope.

  Args:
    episode: its first query is the request's own prompt.
    tokens: most that are scored of an out-of-scope answer.
  """
  (own, *others) = episode.queries
  inside = [pair for pair in others if pair[0] is not Kind.KEEP]
  outside = [pair for pair in others if pair[0] is Kind.KEEP]
  # In front: what does not fit a row is left out at its end.
  kept = [(Kind.KEEP, _cut(query, tokens)) for _, query in inside]
  return dataclasses.replace(episode, queries=(own, *kept, *outside))


def _cut(query: Scored, tokens: int) -> Scored:
  """The query with the beginning of its answer only."""
  spare = max(len(query.labels) - tokens, 0)
  end = len(query.tokens) - spare
  return Scored(query.tokens[:end], query.labels[: len(query.labels) - spare])
